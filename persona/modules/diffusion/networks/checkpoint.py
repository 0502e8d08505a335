"""Strict weights, as the generators' networks name them."""

from persona.modules.strict_state import load_strictly, read_state, split_prefixes

__all__ = ["load_strictly", "read_state", "split_prefixes"]
