"""Many cases with their truth -> scores, tables, pictures and one page."""
