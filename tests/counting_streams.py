"""Replacements of CUDA's streams that only record which work is done before which."""

from contextlib import contextmanager

import torch

from persona.modules import parallel


class Stream:
    """Records what it waits for: ``seen`` is all work that is done before its next work."""

    __class__ = torch.cuda.Stream  # For run-time type checks.

    def __init__(self):
        self.seen = set()

    def wait_stream(self, other):
        self.seen |= other.seen


def count_streams(monkeypatch):
    """Replaces CUDA's streams; returns the list of streams in use, the current one last."""
    used = [Stream()]

    @contextmanager
    def on(stream):
        used.append(stream)
        yield
        used.pop()

    monkeypatch.setattr(parallel.torch.cuda, "current_stream", lambda: used[-1])
    monkeypatch.setattr(parallel.torch.cuda, "stream", on)
    return used
