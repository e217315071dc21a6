"""Tables and queries of a database, as they are there."""
