"""Conversion between volumes and napari layers."""
