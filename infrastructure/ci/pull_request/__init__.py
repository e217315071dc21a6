"""What a pull request changes, built beside production and compared with it, in one comment."""
