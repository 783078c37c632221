"""The table of prompts."""
