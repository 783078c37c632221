"""Bounds and safe unpickling, so that no untrusted file can do harm."""
