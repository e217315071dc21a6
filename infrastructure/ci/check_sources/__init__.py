"""The conventions of a source's folder, checked: every fault, with its file and what fixes it."""
