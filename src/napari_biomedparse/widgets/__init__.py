"""The dock widgets of napari."""
