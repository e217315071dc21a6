"""Release a version: a commit with a tag, a changelog section and an image."""
