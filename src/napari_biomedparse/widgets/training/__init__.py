"""The docks that review labels and fine-tune models."""
