"""Source sql__database: tables and queries of a SQL database."""
