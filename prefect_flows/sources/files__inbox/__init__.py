"""Files that others put into a folder or a bucket."""
