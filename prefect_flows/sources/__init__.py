"""Your sources, a folder `<owner>__<name>` each."""
