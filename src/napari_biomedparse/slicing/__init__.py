"""The planes of a volume become the squares that a network sees, and back."""
