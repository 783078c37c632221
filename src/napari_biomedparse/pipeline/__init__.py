"""From a volume and prompts to labels: plan, loop over slices, combine the parts."""
