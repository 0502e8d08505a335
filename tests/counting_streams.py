"""Streams that only count, in place of CUDA's: what is done before what."""

from contextlib import contextmanager

import torch

from persona.modules import parallel


class Stream:
    """Keeps what it waits for: ``seen`` is all work that is done before its next."""

    __class__ = torch.cuda.Stream  # What a type check sees.

    def __init__(self):
        self.seen = set()

    def wait_stream(self, other):
        self.seen |= other.seen


def count_streams(monkeypatch):
    """Streams in use, the current one last, instead of what CUDA would say."""
    used = [Stream()]

    @contextmanager
    def on(stream):
        used.append(stream)
        yield
        used.pop()

    monkeypatch.setattr(parallel.torch.cuda, "current_stream", lambda: used[-1])
    monkeypatch.setattr(parallel.torch.cuda, "stream", on)
    return used
