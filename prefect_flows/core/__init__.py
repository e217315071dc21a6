"""What every other package uses: errors, settings, names, profiles and small helpers."""
