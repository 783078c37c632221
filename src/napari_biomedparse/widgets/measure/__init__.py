"""The dock widget that measures instances."""
