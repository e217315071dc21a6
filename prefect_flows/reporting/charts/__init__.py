"""Charts as SVG: timeline, lineage, trend."""
