"""The dock widgets that review labels and fine-tune models."""
