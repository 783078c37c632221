"""One module for each file format, and what formats share."""
