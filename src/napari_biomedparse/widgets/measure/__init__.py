"""The dock that measures instances."""
