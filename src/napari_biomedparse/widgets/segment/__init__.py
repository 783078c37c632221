"""The dock that segments with text."""
