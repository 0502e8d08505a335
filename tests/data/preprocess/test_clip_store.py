"""Finished clips survive a killed run, and several are made in parallel."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.preprocess.clip_store import FRAMES_FILE, ClipStore, Job, visible_gpus
from persona.errors import UserError
from persona.modules.diffusion.base import Controls, Fitted, Reference, VideoGenerator
from persona.types import BodyPose, Camera

SIZE = 8


class Drawn(VideoGenerator):
    """Draws random frames from the seed; records the seeds that it was called with."""

    asked = None

    def __init__(self, asked=None, strength=1):
        self.strength = strength
        type(self).asked = asked

    def __call__(self, reference, controls, *, seed):
        if self.asked is not None:
            self.asked.append(seed)
        shape = (len(controls), SIZE, SIZE, 3)
        return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


class Killed(VideoGenerator):
    """Ends its process, as the system does when memory is short."""

    def __call__(self, reference, controls, *, seed):
        os._exit(9)


def job(seed, generator=None, frames=3):
    zero = BodyPose.zero(10)
    pose = BodyPose(**{k: v.expand(frames, *v.shape) for k, v in vars(zero).items()})
    camera = Camera.identity(torch.full((2,), 10.0), torch.full((2,), 4.0), SIZE, SIZE)
    image = np.full((SIZE, SIZE, 3), 7, np.uint8)
    ones = np.ones((SIZE, SIZE), np.float32)
    reference = Reference(image, ones, np.zeros((133, 3), np.float32))
    maps = {"mask": np.ones((frames, SIZE, SIZE), bool)}
    return Job(generator or Drawn(), reference, Controls(pose, camera, maps), seed)


def test_a_finished_clip_is_not_made_again(tmp_path):
    asked = []
    store, generator = ClipStore(tmp_path / "me"), Drawn(asked)
    first = store.frames(job(1, generator))
    assert (ClipStore(tmp_path / "me").frames(job(1, generator)) == first).all() and asked == [1]
    store.frames(job(2, generator))
    # An empty folder, as a kill may leave it, is not a finished clip.
    whole = store.folder / job(3, generator).digest
    whole.mkdir()
    assert (store.frames(job(3, generator)) != first).any() and asked == [1, 2, 3]
    store.forget()
    assert not list(tmp_path.iterdir())


def test_all_that_frames_depend_on_tells_clips_apart():
    base = job(1)
    image = base.reference.image.copy()
    image[0, 0, 0] += 1
    moved = replace(base.controls.pose, trans=base.controls.pose.trans + 1)
    mask = ~base.controls.maps["mask"]
    others = (
        job(2), job(1, Drawn(strength=2)), job(1, frames=4),
        replace(base, reference=replace(base.reference, image=image)),
        replace(base, controls=replace(base.controls, pose=moved)),
        replace(base, controls=replace(base.controls, maps={"mask": mask})),
    )  # fmt: skip
    assert len({base.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert job(1).digest == base.digest


def test_other_weights_at_the_same_path_tell_clips_apart(tmp_path):
    class Weighted(Drawn):
        def weight_files(self):
            return [tmp_path / "net.safetensors"]

    seen = set()
    for content, when in ((b"one", 1), (b"other", 1), (b"three", 9)):
        (tmp_path / "net.safetensors").write_bytes(content)
        os.utime(tmp_path / "net.safetensors", (when, when))
        seen |= {job(1, Weighted()).digest, job(1, Weighted()).digest}
    assert len(seen) == 3


def test_what_frames_do_not_depend_on_finds_the_clip_again():
    """The digest ignores unused maps (``gate=none`` has fewer) and ``generator.offload``."""
    base, generator = job(1), Drawn()
    more = {**base.controls.maps, "bones": np.ones((3, SIZE, SIZE), np.uint8)}
    assert replace(base, controls=replace(base.controls, maps=more)).digest == base.digest
    generator.offload = "model"
    assert job(1, generator).digest == base.digest


def test_the_body_in_the_photograph_tells_clips_apart(body):
    base = job(1)
    pose, identity = BodyPose.zero(10), body.zero_identity()
    fitted = Fitted(body, identity, pose, base.controls.camera)
    other = replace(fitted, pose=replace(pose, trans=pose.trans + 1))
    seen = {
        replace(base, reference=replace(base.reference, fitted=f)).digest for f in (fitted, other)
    }
    assert len({*seen, base.digest}) == 3


def test_gpus_by_the_names_that_are_shown(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]


@pytest.mark.slow  # Two processes begin.
def test_clips_are_made_side_by_side(tmp_path):
    store, jobs = ClipStore(tmp_path / "me"), [job(1), job(2), job(3)]
    store.frames(jobs[1])
    before = (store.folder / jobs[1].digest / FRAMES_FILE).stat().st_mtime_ns
    store.fill(jobs, ["", ""])
    for each in jobs:
        assert (np.load(store.folder / each.digest / FRAMES_FILE) == each.frames()).all()
    assert (store.folder / jobs[1].digest / FRAMES_FILE).stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_killed_process_is_one_line(tmp_path):
    with pytest.raises(UserError, match="was killed, perhaps for want of memory") as caught:
        ClipStore(tmp_path / "me").fill([job(1, Killed()), job(2, Killed())], ["", ""])
    assert "\n" not in str(caught.value)
