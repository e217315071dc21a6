"""Turns what a run did into messages, and sends each one once."""
