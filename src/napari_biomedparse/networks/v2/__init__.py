"""BiomedParse v2: tensors in, tensors out."""
