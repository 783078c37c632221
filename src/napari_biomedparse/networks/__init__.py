"""Networks, their weights, and where the weights come from."""
