"""The ring: its views have errors of the requested size, its test frames have none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.subject import Subject
from persona.data.synthetic.ring import (
    RING,
    TRUTH_FILE,
    RingConfig,
    RingSubject,
    SmoothField,
    ViewErrors,
    make_ring,
    smooth_normals,
)
from persona.modules.body.topology import vertex_normals

TINY = RingConfig(
    seed=3, height=64, width=48, num_views=3, num_held_out=1, num_test=1, texture_size=64,
    patch_size=32, supersample=1, warp_m=0.03, swim_m=0.0, tint=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(body, tmp_path_factory):
    root = tmp_path_factory.mktemp("ring") / "ring"
    make_ring(root, body, TINY)
    return Subject(root)


@pytest.mark.slow
def test_is_a_whole_subject_of_views_and_exact_frames(made, body):
    made.validate()
    assert made.frame_ids("captured") == [0]
    assert made.frame_ids(RING) == [1, 2]
    assert made.original_names("test") == ["ring 3 view 0", "ring 3 pose 0"]
    # All views show one pose of the body, from different directions.
    roots = [made.pose(s, n).root for s, n in (("captured", 0), (RING, 1), (RING, 2))]
    poses = [made.pose(s, n).body for s, n in (("captured", 0), (RING, 1), (RING, 2))]
    assert all(torch.equal(pose, poses[0]) for pose in poses)
    assert not torch.allclose(roots[1], roots[2])


@pytest.mark.slow
def test_views_stray_by_what_is_asked_for(made):
    truth = json.loads((made.root / TRUTH_FILE).read_text())
    assert truth["shift_rms_m"] == pytest.approx([0.03] * 3, rel=1e-4)
    assert np.std(truth["gain"]) > 0.05 and truth["held_out"] == [0]


@pytest.mark.slow
def test_same_settings_are_left_alone_and_others_made_anew(made, body):
    source = RingSubject(body, TINY)
    before = (made.root / TRUTH_FILE).stat().st_mtime_ns
    source.prepare(made.root)
    assert (made.root / TRUTH_FILE).stat().st_mtime_ns == before
    assert TINY.digest(body.digest) != replace(TINY, tint=0.1).digest(body.digest)


def test_swim_slides_and_warp_has_its_size():
    """On a unit sphere, whose normals equal its points."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(size=(500, 3))).float()
    outward = torch.nn.functional.normalize(points, dim=-1)
    slid = ViewErrors(replace(TINY, warp_m=0.0, swim_m=0.02), 1).shift(outward, outward)
    assert (slid * outward).sum(-1).abs().max() < 1e-6
    assert slid.square().sum(-1).mean().sqrt() == pytest.approx(0.02, rel=1e-5)
    still = ViewErrors(replace(TINY, warp_m=0.0, swim_m=0.0, tint=0.0), 1)
    assert not still.shift(outward, outward).any() and (still.gain == 1).all()


def test_errors_of_views_are_independent_and_smooth():
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    one, two = (SmoothField(np.random.default_rng([0, n]), 0.7)(points).flatten() for n in (1, 2))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.5
    field = SmoothField(np.random.default_rng(0), 0.7)
    near, far = ((field(points + d) - field(points)).norm(dim=-1).mean() for d in (0.001, 0.3))
    assert near < 0.03 * far


def test_normals_without_details_are_those_of_the_whole():
    """Those of a plate within 8 degrees, although waves of two centimetres turn them by 45."""
    grid = torch.cartesian_prod(torch.arange(81), torch.arange(81)).float() / 200
    wavy = torch.cat((grid, 0.005 * (grid[:, :1] * (2 * torch.pi / 0.02)).sin()), 1)
    first = torch.arange(81 * 80).view(80, 81)[:, :-1].flatten()
    faces = torch.cat((torch.stack((first, first + 81, first + 1), 1),
                       torch.stack((first + 1, first + 81, first + 82), 1)))  # fmt: skip
    own, smooth = vertex_normals(wavy, faces), smooth_normals(wavy, faces)
    torch.testing.assert_close(smooth.norm(dim=-1), torch.ones(len(wavy)))
    assert own[:, 2].min() < 0.71 and smooth[:, 2].min() > 0.99
