"""Overview page of all targets (index.html), and the web server for it."""
