"""Generators of video: a reference photograph and driving poses to frames."""
