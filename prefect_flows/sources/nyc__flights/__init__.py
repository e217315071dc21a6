"""A year of flights out of New York City."""
