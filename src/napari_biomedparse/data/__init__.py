"""Volumes, prompts, options and results: what users hand in and get back."""
