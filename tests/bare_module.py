"""Modules with only the attributes that a test needs."""

from torch import nn


def bare(kind: type[nn.Module], **values: object) -> nn.Module:
    """A module of class ``kind`` with only ``values``; the constructor of ``kind`` is not run."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in values.items():
        setattr(made, name, value)
    return made
