"""Decides which nodes a run builds, and which results of earlier runs it reuses."""
