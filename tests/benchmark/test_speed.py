"""The speed benchmark's own parts: separate rasteriser calls and a store of many frames."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from persona.modules.avatar.pose_table import matrix_pose
from persona.types import BodyPose

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("separate", "full_store"):
        sys.modules.pop(name, None)


@pytest.fixture
def scene(tiny):
    """An untrained system, a pose and the camera of a test frame."""
    config = tiny()
    system, data = instantiate(config.system), instantiate(config.data)
    system.build(data.subject.identity(system.body), num_frames=1)
    pose = matrix_pose(system.body, BodyPose.zero(system.body.num_expression))
    frame = data.test_frames[[0]]
    shift = data.test_frames.poses(system.body.num_expression).trans[0]
    return system, replace(pose, trans=shift), frame.camera[0].local()


@pytest.mark.slow
def test_all_of_the_methods_targets_are_29_calls(benchmarks, scene):
    from separate import TARGETS, AllTargets, SeparateRenderer

    system, pose, camera = scene
    drawn = SeparateRenderer(system.renderer)
    views = AllTargets(drawn, system.method.views.extent_m)
    with torch.no_grad():
        posed = system.avatar(pose)
        for view in (*TARGETS, "left_hand", "right_hand"):
            asked = frozenset({"rgb_fixed"})
            one = views.render(system.avatar, posed, view, camera, asked)
            packed = system.method.views.render(system.avatar, posed, view, camera, asked)
            assert set(one.images) == asked
            torch.testing.assert_close(one.images["rgb_fixed"], packed.images["rgb_fixed"])
            torch.testing.assert_close(one.alpha, packed.alpha)
    assert drawn.calls == 29
    assert packed.alpha.any()


@pytest.mark.slow
def test_separate_calls_have_the_packed_gradients(benchmarks, scene):
    from separate import separate

    system, pose, camera = scene
    channels = frozenset({"rgb", "rgb_aux", "depth", "normal"})

    def gradients():
        posed = system.avatar(pose)
        render = system.method.views.render(system.avatar, posed, "base", camera, channels)
        total = sum((i * i).sum() for i in (*render.images.values(), render.alpha))
        return torch.autograd.grad(total, [system.avatar.mean_offset, system.avatar.rgb_logit])

    packed = gradients()
    drawn = separate(system, "separate_ours")
    assert not system.cuda_graph
    for a, b in zip(gradients(), packed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
    assert drawn.calls == 5


def test_a_full_store_repeats_what_is_generated(benchmarks, tiny):
    from full_store import with_full_store

    config = tiny("+speed.frames_stored=21", "+speed.renders=packed")
    few, many = (instantiate(c.data).train_frames for c in (tiny(), with_full_store(config)))
    assert [len(store) for store in few.stores] == [1, 4, 4]
    assert [len(store) for store in many.stores] == [1, 10, 11]
    assert many.poses(few.stores[0].poses.expression.shape[1]).trans.shape == (22, 3)
    a, b = few[[2]], many[[1 + 5]]
    assert torch.equal(a.image, b.image) and a.name == b.name and b.index.tolist() == [6]
    rows = many.stores[1].packed
    assert rows.untyped_storage().nbytes() == rows.numel(), (
        "rows are a copy, not a view of the repeated ones"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gsplat_draws_the_same_picture(benchmarks, scene):
    """Same filter, compensation and camera, so the benchmark times the same work as ours."""
    from separate import SeparateGsplat

    from persona.modules.render.factory import make_renderer

    system, pose, camera = scene
    system, pose, camera = system.cuda(), pose.to("cuda"), camera.to("cuda")
    ours = make_renderer("gsplat").cuda()
    channels = frozenset({"rgb", "depth", "seg", "rgb_aux"})
    renders, gradients = [], []
    for renderer in (ours, SeparateGsplat(ours)):
        posed = system.avatar(pose)
        views = replace(system.method.views, renderer=renderer)
        renders.append(views.render(system.avatar, posed, "refined", camera, channels))
        total = sum(i.square().sum() for i in (*renders[-1].images.values(), renders[-1].alpha))
        leaves = [system.avatar.mean_offset, system.avatar.rgb_logit, system.avatar.log_scale]
        gradients.append(torch.autograd.grad(total, leaves))
    packed, apart = renders
    for name in channels:
        difference = (packed.images[name] - apart.images[name]).abs()
        # Rounding decides whether a splat of alpha 1/255 is drawn, so a few pixels differ.
        assert difference.median() < 1e-5 and (difference > 1e-3).float().mean() < 1e-3, name
    assert (packed.alpha - apart.alpha).abs().median() < 1e-5
    for a, b in zip(*gradients, strict=True):
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.999
