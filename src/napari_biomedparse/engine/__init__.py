"""A network on a device: precision, batches, and features that are kept."""
