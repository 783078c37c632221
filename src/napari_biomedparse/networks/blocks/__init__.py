"""The parts that several networks are built of."""
