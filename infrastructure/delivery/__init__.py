"""A release brought to where it runs, checked there, and taken back when it does not work."""
