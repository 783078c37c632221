"""The dock widget that corrects objects."""
