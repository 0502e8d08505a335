"""Modules that hold just what a test needs."""

from torch import nn


def bare(kind: type[nn.Module], **values: object) -> nn.Module:
    """An object of a module's class, not initialised, that has nothing but these."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in values.items():
        setattr(made, name, value)
    return made
