"""All losses of conf/loss on small steps of a synthetic person."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.subject import make_synthetic_subject
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.base import Loss, LossSum, Step
from persona.modules.losses.functional import ssim_map

CONF = Path(__file__).parents[3] / "conf"
SETS = ("persona", "exavatar", "pointavatar", "pegasus", "perse", "anigs")
OPTIONAL = ("surface_offset",)  # It needs simulated clothes; test_surface_offset.py tests it.
NAMES = sorted(p.stem for p in (CONF / "loss").glob("*.yaml") if p.stem not in SETS + OPTIONAL)

# Frames to which each loss applies, and parameters that get its gradient (network: pose offsets).
# Means and scales get gradients of rgb images and masks, but never of a fixed channel.
LOOK = {"means", "scales", "rgb"}
SHAPE = {"means", "scales"}
MOVES = {
    "img": ("all", LOOK),
    "img_refined": ("all", LOOK | {"network"}),
    "img_albedo": ("captured", LOOK),
    "img_aux_refined": ("generated", {"aux"}),
    "img_boundary": ("captured", {"rgb"}),
    "img_boundary_refined": ("captured", {"rgb"}),
    "geo": ("all", SHAPE | {"seg"}),
    "geo_refined": ("all", SHAPE | {"seg", "network"}),
    "mask_left_hand": ("generated", SHAPE),
    "mask_right_hand": ("generated", SHAPE),
    "mask_eye": ("all", SHAPE),
    "face_geo": ("captured", SHAPE),
    "patch_face": ("captured", LOOK),
    "patch_face_boundary": ("captured", {"rgb"}),
    "patch_mask_face": ("captured", SHAPE),
    "patch_face_geo": ("captured", SHAPE),
    "lap_mean": ("all", {"means"}),
    "lap_mean_refined": ("all", {"means", "network"}),
    "lap_offset": ("all", {"means", "network"}),
    "lap_scale": ("all", {"scales"}),
    "lap_rgb": ("all", {"rgb"}),
    "hand_rgb_tv": ("all", {"rgb"}),
    "hand_rgb": ("all", {"rgb"}),
    "mouth_in_rgb": ("all", {"rgb"}),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """System, settings, frames, and rows of a captured and a generated frame."""
    body = SmplxBody()
    root = tmp_path_factory.mktemp("subjects")
    config = SyntheticConfig(
        height=96, width=72, num_generated=1, num_test=1, texture_size=128, patch_size=48
    )
    make_synthetic_subject(root / "small", body, config)
    small = [
        "data=subject", "name=small", f"subjects_dir={root}", "metric.lpips_net=null",
        "avatar.levels=0", "avatar.field_resolution=16", "avatar.field_steps=2",
        "avatar.triplane_resolution=8", "renderer=cpu", "loss=[persona,lap_offset]",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("train", overrides=small)
    system, data = instantiate(settings.system), instantiate(settings.data)
    frames = data.train_frames
    poses = frames.poses(body.num_expression)
    system.build(data.subject.identity(system.body), len(poses.trans))
    system.method.initialise(data.subject)
    system.table.load_state_dict(PoseTable.from_poses(system.body, poses).state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # At the start, differences of colours and shapes would be zero.
        for parameter in (system.avatar.mean_offset, system.avatar.log_scale):
            parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
        for parameter in (system.avatar.rgb_logit, system.avatar.seg_logit):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    rows = {role: frames.roles.index(role) for role in ("captured", "generated")}
    return system, settings, frames, rows


@pytest.fixture(scope="module")
def steps(world):
    system, _, frames, rows = world
    return {
        kind: system.frame_step(frames[[row]], system.table(torch.tensor(row)))
        for kind, row in rows.items()
    }


def parameters(system) -> dict[str, list[torch.Tensor]]:
    avatar = system.avatar
    return {
        "means": [avatar.mean_offset], "scales": [avatar.log_scale], "rgb": [avatar.rgb_logit],
        "aux": [avatar.rgb_aux_logit], "seg": [avatar.seg_logit],
        "network": list(avatar.offsets.parameters()),
    }  # fmt: skip


def moved(system, value: torch.Tensor) -> set[str]:
    """Groups of parameters with a gradient."""
    found = set()
    for name, group in parameters(system).items():
        gradients = torch.autograd.grad(value, group, allow_unused=True, retain_graph=True)
        if any(g is not None and g.abs().max() > 0 for g in gradients):
            found.add(name)
        assert all(g is None or g.isfinite().all() for g in gradients), name
    return found


def test_the_table_above_is_complete():
    assert set(MOVES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(world, steps, name):
    system, settings, *_ = world
    loss: Loss = instantiate(settings.loss[name])
    kinds, groups = MOVES[name]
    for kind, step in steps.items():
        assert loss.applies(kind == "captured") == (kinds in ("all", kind))
        if not loss.applies(kind == "captured"):
            continue
        value = loss(step)
        assert value.shape == () and value.isfinite() and value >= 0
        assert moved(system, value) == groups, kind


def test_only_what_is_needed_is_rendered(world):
    system, settings, frames, rows = world
    kept = system.losses
    try:
        for name in NAMES:
            system.losses = LossSum({name: instantiate(settings.loss[name])})
            for kind, row in rows.items():
                asked = system.losses.reads(kind == "captured")
                with torch.no_grad():
                    step = system.frame_step(frames[[row]], system.table(torch.tensor(row)))
                assert step.renders.keys() == asked.keys(), name
                for view, render in step.renders.items():
                    extra = (
                        {"position"} if kind == "captured" and "boundary" in asked[view] else set()
                    )
                    colours = asked[view] - {"alpha", "mesh", "boundary"}
                    # A hand's view always has its colours.
                    extra |= {"rgb_fixed"} if view.endswith("hand") else set()
                    assert set(render.images) == colours | extra, name
                    if step.captured and "boundary" in asked[view]:
                        assert view in step.boundary
    finally:
        system.losses = kept


def test_weight_zero_is_off_and_not_rendered(world, steps):
    _, settings, *_ = world
    losses = {name: instantiate(settings.loss[name]) for name in ("img", "geo", "lap_rgb")}
    losses["geo"].weight = 0
    total = LossSum(losses)
    assert total.reads(captured=True) == {"base": frozenset({"rgb", "alpha", "boundary"})}
    assert total(steps["captured"])[1].keys() == {"img", "lap_rgb"}


def test_sum_applies_weights_once(world, steps):
    _, settings, *_ = world
    for kind, step in steps.items():
        losses = {name: instantiate(settings.loss[name]) for name in NAMES}
        total, terms = LossSum(losses)(step)
        applied = {n for n, loss in losses.items() if loss.applies(kind == "captured")}
        assert terms.keys() == applied
        by_hand = sum(losses[name].weight * losses[name](step) for name in applied)
        torch.testing.assert_close(total, by_hand)
        assert total.requires_grad and not any(v.requires_grad for v in terms.values())


class SquaredDifference(nn.Module):
    """A simple distance in place of LPIPS."""

    def features(self, images, window):
        raise NotImplementedError  # These tests keep no targets.

    def forward(self, x, y, which, window, kept):
        return (x - y[list(which)]).square().mean((1, 2, 3))


def compared(name: str, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """The two images that a term compares by LPIPS."""
    view = name.split("_")[-1] if name.endswith("refined") else name.split("_")[0]
    view = {"img": "base"}.get(view, view)
    render = step.renders[view]
    if "boundary" in name:
        boundary = step.boundary[view]
        return render.images["rgb"] * boundary, render.images["rgb_aux"] * boundary
    truth = {"patch_face": step.frame.patch, "img_albedo": step.frame.albedo}
    truth = truth.get(name, step.frame.image)[0]
    colour = render.images["rgb_aux" if "aux" in name else "rgb"]
    return colour + truth * (1 - render.alpha), truth


def test_lpips_counts_by_the_terms_weight_and_its_own(world, steps):
    """All terms of a step are in one batch, each with different weights."""
    _, settings, *_ = world
    names = [name for name in NAMES if "perceptual" in settings.loss[name]]
    assert len(names) == 8
    for kind, step in steps.items():
        losses = {name: instantiate(settings.loss[name]) for name in names}
        for place, loss in enumerate(losses.values(), 2):
            loss.weight, loss.lpips = 0.5 * place, 3.0 / place**2
        _, without = LossSum(losses)(replace(step, pairs=[]))
        for loss in losses.values():
            loss.perceptual = SquaredDifference()
        total, terms = LossSum(losses)(replace(step, pairs=[]))
        assert terms.keys() == {n for n in names if losses[n].applies(kind == "captured")}
        torch.testing.assert_close(total, sum(terms.values()))
        for name, value in terms.items():
            image, target = compared(name, step)
            distance = (image - target).square().mean()
            added = losses[name].weight * losses[name].lpips * distance
            assert added > 1e-5, name
            torch.testing.assert_close(value - without[name], added, rtol=1e-3, atol=1e-6)


def test_photograph_counts_a_tenth_inside_the_boundary(world, steps):
    _, settings, *_ = world
    loss = instantiate(settings.loss.img)
    step = steps["captured"]
    truth, render = step.frame.image[0], step.renders["base"]
    image = render.images["rgb"] + truth * (1 - render.alpha)
    boundary = torch.zeros_like(render.alpha)
    boundary[:, 20:50] = 1
    weight = torch.where(boundary > 0, 0.1, 1.0)
    error = 0.8 * (image - truth).abs() + 0.2 * (1 - ssim_map(image, truth))
    value = loss(replace(step, boundary={**step.boundary, "base": boundary}))
    torch.testing.assert_close(value, (error * weight).mean())
    # A generated frame has no boundary.
    step = steps["generated"]
    truth, render = step.frame.image[0], step.renders["base"]
    image = render.images["rgb"] + truth * (1 - render.alpha)
    error = 0.8 * (image - truth).abs() + 0.2 * (1 - ssim_map(image, truth))
    torch.testing.assert_close(loss(step), error.mean())


def test_the_avatars_maps_follow_the_conventions_of_the_data(world, steps):
    """Normals and depths correlate with the data's, made by another renderer and with clothes."""
    render, frame = steps["captured"].renders["base"], steps["captured"].frame
    inside = (render.alpha[0] > 0.95) & (frame.normal[0].sum(0) > 0) & (frame.depth[0, 0] > 0)
    assert inside.sum() > 500
    rendered = {k: (render.images[k] / render.alpha)[:, inside] for k in ("normal", "depth")}
    cosine = (rendered["normal"] * (2 * frame.normal[0][:, inside] - 1)).sum(0)
    assert cosine.mean() > 0.8
    depths = torch.stack([rendered["depth"][0], frame.depth[0, 0][inside]])
    assert torch.corrcoef(depths)[0, 1] > 0.6


def test_seam_pulls_rgb_only_inside_the_boundary(world, steps):
    system, settings, *_ = world
    loss = instantiate(settings.loss.img_boundary)
    step = steps["captured"]
    nowhere = torch.zeros_like(step.boundary["base"])
    assert loss(replace(step, boundary={"base": nowhere})).item() == pytest.approx(0, abs=1e-6)
    assert "aux" not in moved(system, loss(replace(step, boundary={"base": nowhere + 1})))


def test_truth_without_error_costs_nothing(world, steps):
    """A render of the true colours costs nothing."""
    _, settings, *_ = world
    step = steps["generated"]
    truth = step.frame.image[0]
    render = step.renders["base"]
    perfect = replace(render, images={**render.images, "rgb": truth * render.alpha})
    value = instantiate(settings.loss.img)(replace(step, renders={"base": perfect}))
    assert value.item() == pytest.approx(0, abs=1e-5)


def test_bracket_of_geometry_by_kind_of_frame(world, steps):
    """With weight 0 of the bracket only the silhouette counts."""
    _, settings, *_ = world
    loss = instantiate(settings.loss.geo, captured=0.0, generated=0.0)
    for step in steps.values():
        silhouette = (step.renders["base"].alpha - step.frame.mask[0]).abs().mean()
        torch.testing.assert_close(loss(step), silhouette)
    full = instantiate(settings.loss.geo)
    weights = {"captured": 0.1, "generated": 1.0}
    for kind, step in steps.items():
        whole = instantiate(settings.loss.geo, captured=1.0, generated=1.0)(step)
        silhouette = loss(step)
        torch.testing.assert_close(full(step), silhouette + weights[kind] * (whole - silhouette))
