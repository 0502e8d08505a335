"""The benchmark of motion read off videos."""
