"""Source github__trending: repositories on GitHub that gain stars."""
