"""Your sources, one folder `<owner>__<name>` each."""
