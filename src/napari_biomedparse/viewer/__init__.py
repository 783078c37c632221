"""Volumes become napari layers, and layers become volumes."""
