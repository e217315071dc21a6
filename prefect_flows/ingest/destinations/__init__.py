"""The warehouses that sources are loaded into."""
