"""Training: cases to batches, losses, the loop, and the recipe of the demo model."""
