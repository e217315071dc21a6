"""One folder a source, named `<owner>__<name>`."""
