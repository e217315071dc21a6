"""The index page of all targets, and the server that shows it."""
