"""`millrace update`: bring a newer release of the engine into a team's repository."""
