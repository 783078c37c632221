"""What several docks share."""
