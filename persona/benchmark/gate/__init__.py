"""The alignment gate on synthetic clips into which faults of known kinds are put."""
