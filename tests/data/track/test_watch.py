"""Watching a shot in chunks: a run that is resumed after any of them sees the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from persona.data.track import watch
from persona.data.track.sightings import joined
from persona.data.track.tracker import _last_box
from persona.data.track.video import Video
from persona.data.track.watch import FORGETS, Watcher
from persona.modules.detect import Detection
from persona.modules.detect.following import Follower
from persona.types import Camera

CHUNK, COUNT = FORGETS + 10, 2 * FORGETS + 20


class Film(Video):
    """Frames whose grey level is their number."""

    def frames(self, start=0, end=None, longest_px=None):
        for number in range(start, end):
            yield np.full((40, 40, 3), number, np.uint8)


class Finder(Follower):
    """Finds the person in the frames of ``shown``, and keeps what it was asked."""

    shown = frozenset()

    def __init__(self):
        self.asked = asked

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def find(self, pixels, last=None, anywhere=False):
        number = int(pixels[0, 0, 0])
        self.asked.append((number, last, anywhere))
        if number not in self.shown:
            return None
        keypoints = torch.ones(133, 3)
        keypoints[:, :2] = number + torch.arange(133.0)[:, None] / 10
        return Detection(torch.ones(40, 40), keypoints, torch.zeros(133, 4))


asked = []


def watched(frames, box):
    """The chunks of some frames, and what the detector was asked for them."""
    asked.clear()
    camera = Camera.identity(torch.tensor([40.0] * 2), torch.tensor([20.0] * 2), 40, 40)
    watcher = Watcher(Film(Path("film"), 10.0), camera, None, every=4)
    watcher.annotator = "one"
    watcher._joints = lambda frame, found: torch.full((22, 4), 0.1)
    return list(watcher.chunks(frames, box, lambda _: None)), list(asked)


@pytest.mark.parametrize("until", [CHUNK - FORGETS, CHUNK - FORGETS + 1, CHUNK, 0])
def test_a_resumed_run_sees_the_same(monkeypatch, until):
    """Nobody is seen for long before a chunk ends, or just not for so long, or not at all."""
    monkeypatch.setattr(watch, "CHUNK", CHUNK)
    monkeypatch.setattr(watch, "Follower", Finder)
    monkeypatch.setattr(Finder, "shown", {*range(until), *range(CHUNK + 8, COUNT)})
    chunks, asked_for = watched(range(COUNT), None)
    forgotten = until <= CHUNK - FORGETS
    assert (asked_for[CHUNK][1] is None) == forgotten, "known until it is forgotten"
    rest, asked_again = watched(range(CHUNK, COUNT), _last_box(chunks[0]))
    assert asked_again == asked_for[CHUNK:]
    again, whole = joined(rest), joined(chunks[1:])
    for name in ("keypoints", "joints", "turn"):
        torch.testing.assert_close(getattr(again, name), getattr(whole, name))
