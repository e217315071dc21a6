"""Channels of YouTube, their videos, and the statistics of each day."""
