"""OpenLineage events of a run: which job read and wrote which tables, and the tests of these."""
