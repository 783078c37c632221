"""BoltzFormer, for small objects in single images."""
