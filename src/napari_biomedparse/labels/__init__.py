"""Predictions become labels, labels become instances, instances become numbers."""
