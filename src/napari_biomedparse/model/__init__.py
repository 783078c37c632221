"""The network: tensors in, tensors out. Knows nothing of files, volumes or napari."""
