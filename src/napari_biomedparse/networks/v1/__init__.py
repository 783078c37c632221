"""The BiomedParse v1 network, for colour and single images."""
