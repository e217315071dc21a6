"""Deliver a release to a host or cluster, check it, and roll it back if it fails."""
