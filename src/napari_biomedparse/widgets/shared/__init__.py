"""What several docks need."""
