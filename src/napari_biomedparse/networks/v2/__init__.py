"""The BiomedParse v2 network."""
