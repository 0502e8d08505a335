"""A stream that gives one process the batches of two."""

from dataclasses import fields

import torch

from persona.data.people.portrait_stream import PortraitStream
from persona.data.people.portraits import Portraits


class BothRanks(PortraitStream):
    """Joins the batches of the first and the second process into one."""

    def __iter__(self):
        batches = []
        for self.rank in (0, 1):
            batches.append(super().__iter__())
            batches[-1] = _started(batches[-1])
        for one, other in zip(*batches, strict=True):
            yield Portraits(**{
                f.name: torch.cat((getattr(one, f.name), getattr(other, f.name)))
                for f in fields(Portraits)
            })  # fmt: skip


def _started(batches):
    """Runs a generator up to its first batch, which is when it reads the rank."""
    first = next(batches)

    def rest():
        yield first
        yield from batches

    return rest()
