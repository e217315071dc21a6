"""The report of one run: its page, its artifacts and its live display."""
