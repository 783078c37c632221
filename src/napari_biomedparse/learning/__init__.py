"""Corrections teach: from a few corrected slices to better masks in all others."""
