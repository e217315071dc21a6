"""Report of one run: HTML page, Prefect artifacts, live display in the terminal."""
