"""The dock widget that segments with text."""
