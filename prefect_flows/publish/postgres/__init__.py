"""Publishing on Postgres: two tables per model, and a parent table that inherits from one."""
