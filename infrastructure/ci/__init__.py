"""What continuous integration runs: pull requests, checks of sources, generated reference."""
