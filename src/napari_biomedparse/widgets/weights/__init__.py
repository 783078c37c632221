"""The choice and the download of model weights."""
