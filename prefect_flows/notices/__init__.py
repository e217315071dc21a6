"""What is told of a run, to whom, and how often: once for each incident."""
