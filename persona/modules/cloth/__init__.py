"""Hanging clothes: simulated over a motion, and stored as offsets of the body's vertices."""
