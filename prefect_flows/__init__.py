"""What runs: the parameterized pipeline, the sources it ingests, and what they share."""
