"""Bounds and safe unpickling for untrusted files."""
