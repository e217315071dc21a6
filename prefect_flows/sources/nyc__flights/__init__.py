"""Source nyc__flights: a year of flights from New York City."""
