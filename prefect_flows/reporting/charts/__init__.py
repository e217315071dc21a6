"""SVG charts: timeline (Gantt), lineage graph, trend over runs."""
