"""Clothes that hang: simulated over a motion, and what that says of the body's vertices."""
