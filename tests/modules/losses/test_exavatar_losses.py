"""All terms of conf/loss/exavatar on one small step of a synthetic person."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.subject import make_synthetic_subject
from persona.modules.avatar import exavatar, textured_face
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.nearest import nearest_of_all
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import LossSum, Window
from persona.modules.losses.exavatar_geometry import region_weight
from persona.modules.losses.functional import ssim_map
from persona.systems.exavatar import MOST_SIDES, crop_size
from persona.types import Render

CONF = Path(__file__).parents[3] / "conf"
NAMES = sorted(p.stem for p in (CONF / "loss/exavatar").glob("*.yaml"))

# Parameters that get a gradient of each term: networks, shape (betas), joints, the frame's pose.
LOOK = {"geo", "rgb", "shape", "joints", "pose"}
REFINED = LOOK | {"geo_offset", "rgb_offset"}
MOVES = {
    "img": LOOK,
    "img_refined": REFINED,
    "human": LOOK,
    "human_refined": REFINED,
    "face": LOOK - {"rgb"},
    "face_refined": REFINED - {"rgb", "rgb_offset"},
    "mean_offset": {"geo", "geo_offset"},
    "hand_offset": {"geo", "geo_offset"},
    "scale": {"geo", "geo_offset"},
    "lap_mean": {"geo", "geo_offset"},
    "lap_scale": {"geo", "geo_offset"},
    "lap_rgb": {"rgb", "rgb_offset"},
    "hand_rgb": {"rgb", "rgb_offset"},
    "arm_rgb": {"rgb", "rgb_offset"},
    "joint_offset": {"joints"},
    "joint_symmetry": {"joints"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """System, settings and a step, with parameters changed a little from their start."""
    body = SmplxBody()
    root = tmp_path_factory.mktemp("subjects")
    config = SyntheticConfig(
        height=96, width=72, num_generated=1, num_test=1, texture_size=256, patch_size=48
    )
    make_synthetic_subject(root / "small", body, config)
    small = [
        "+exp=exavatar_demo", "data=subject", "name=small", f"subjects_dir={root}",
        "metric.lpips_net=null", "avatar.levels=0", "avatar.triplane_resolution=8",
        "renderer=cpu", "avatar.texture_size=128", "avatar.warmup_steps=0", "avatar.mean_gain=0.01",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("train", overrides=small)
    torch.manual_seed(0)
    system, data = instantiate(settings.system), instantiate(settings.data)
    frames = data.train_frames
    poses = frames.poses(body.num_expression)
    system.build(data.subject.identity(system.body), len(poses.trans))
    system.method.initialise(data.subject)
    system.table.load_state_dict(PoseTable.from_poses(system.body, poses).state_dict())
    avatar = system.avatar
    with torch.no_grad():
        for planes in (avatar.body_planes, avatar.face_planes):
            planes.planes.normal_()
        for network in (avatar.geo, avatar.geo_offset):
            network.heads["scale"].weight *= 0.1
        avatar.geo.heads["scale"].bias.fill_(-5)
        avatar.joint_offset += 1e-3 * torch.randn(55, 3)
        avatar.begin_step()
    row = frames.roles.index("captured")
    system.train()
    return system, settings, system.frame_step(frames[[row]], system.table(torch.tensor(row)))


def moved(system, value: torch.Tensor) -> set[str]:
    """Groups of parameters with a gradient."""
    avatar = system.avatar
    groups = {
        n: list(getattr(avatar, n).parameters()) for n in ("geo", "geo_offset", "rgb", "rgb_offset")
    }
    groups |= {"shape": [avatar.betas], "joints": [avatar.joint_offset]}
    groups |= {"pose": list(system.table.parameters())}
    found = set()
    for name, group in groups.items():
        gradients = torch.autograd.grad(value, group, allow_unused=True, retain_graph=True)
        if any(g is not None and g.abs().max() > 0 for g in gradients):
            found.add(name)
        assert all(g is None or g.isfinite().all() for g in gradients), name
    return found


def test_the_table_above_is_complete():
    assert set(MOVES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(world, name):
    system, settings, step = world
    value = instantiate(settings.loss[name])(step)
    assert value.shape == () and value.isfinite() and value > 0
    assert moved(system, value) == MOVES[name]


def test_images_lie_on_the_same_colour_and_are_cropped(world):
    _, settings, step = world
    mask, ground = step.frame.mask[0], step.background[:, None, None]
    render = step.renders["refined"]
    image = render.images["rgb"] + ground * (1 - render.alpha)
    truth = step.frame.image[0] * mask + ground * (1 - mask)
    human = instantiate(settings.loss.human_refined)(step)
    torch.testing.assert_close(human, (image - truth).abs().mean())
    rows, columns = slice(3, 67), slice(8, 72)
    cropped = replace(step, crop=Window(torch.tensor([3, 8]), (64, 64)))
    x, y = image[:, rows, columns], truth[:, rows, columns]
    expected = 0.8 * (x - y).abs().mean() + 0.2 * (1 - ssim_map(x, y)).mean()
    torch.testing.assert_close(instantiate(settings.loss.img_refined)(cropped), expected)


class SquaredDifference(nn.Module):
    """A simple distance in place of LPIPS."""

    def features(self, images, window):
        raise NotImplementedError  # These tests keep no targets.

    def forward(self, x, y, which, window, kept):
        assert window is None  # The images are already cropped.
        return (x - y[list(which)]).square().mean((1, 2, 3))


def test_lpips_of_the_crop_counts_by_the_terms_weight_and_its_own(world):
    _, settings, step = world
    losses = {name: instantiate(settings.loss[name]) for name in ("img", "img_refined")}
    for loss, weight, lpips in zip(losses.values(), (1.0, 3.0), (0.2, 0.5), strict=True):
        assert loss.lpips == 0.2  # As in the paper.
        loss.weight, loss.lpips = weight, lpips
    _, without = LossSum(losses)(replace(step, pairs=[]))
    for loss in losses.values():
        loss.perceptual = SquaredDifference()
    _, terms = LossSum(losses)(replace(step, pairs=[]))
    (top, left), (height, width) = step.crop.start.tolist(), step.crop.size
    part = np.s_[:, top : top + height, left : left + width]
    for name, view, factor in (("img", "base", 0.2), ("img_refined", "refined", 1.5)):
        render = step.renders[view]
        image = render.images["rgb"] + step.background[:, None, None] * (1 - render.alpha)
        added = factor * (image[part] - step.human_truth[part]).square().mean()
        assert added > 1e-4
        torch.testing.assert_close(terms[name] - without[name], added, rtol=1e-3, atol=1e-6)


def test_background_does_not_matter_to_a_perfect_render(world):
    _, settings, step = world
    mask = step.frame.mask[0]
    perfect = replace(step.renders["base"], images={"rgb": step.frame.image[0] * mask}, alpha=mask)
    for color in (torch.zeros(3), torch.rand(3)):
        value = instantiate(settings.loss.human)(
            replace(step, renders={"base": perfect}, background=color)
        )
        assert value.item() == pytest.approx(0, abs=1e-7)


def test_region_weights(world):
    """Absolute weights of each region equal the paper's."""
    system, settings, _ = world
    template = system.avatar.template
    body = ~(template.hand | template.face)
    plain_face = template.face & ~template.face_expr & ~template.cavity
    expr = template.face_expr & ~template.cavity
    table = {
        "mean_offset": {"body": 10, "hand": 1000, "face": 1, "expr": 10},
        "scale": {"body": 1, "hand": 1000, "face": 1, "expr": 10, "cavity": 0},
        "lap_mean": {"body": 6e3, "hand": 6e3, "face": 6e3, "expr": 50 * 6e3, "cavity": 600},
        "lap_scale": {"body": 6e4, "hand": 6e4, "face": 6e4, "expr": 0},
        "lap_rgb": {"body": 0.1, "hand": 100, "face": 0.1, "expr": 0.1},
    }
    inside = {"body": body, "hand": template.hand, "face": plain_face, "expr": expr,
              "cavity": template.cavity}  # fmt: skip
    for name, regions in table.items():
        loss = instantiate(settings.loss[name])
        weight = loss.weight * region_weight(template, loss.regions)[:, 0]
        for region, value in regions.items():
            assert (weight[inside[region]] - value).abs().max() < 1e-4 * max(1, value), name


def test_regularisers_by_hand(world):
    """Formulas on plain arrays; ``test_region_weights`` checks the weights of regions."""
    system, settings, step = world
    avatar, template, posed = system.avatar, system.avatar.template, step.posed

    def value(name: str) -> torch.Tensor:
        return instantiate(settings.loss[name])(step)

    def regions(name: str) -> torch.Tensor:
        return region_weight(template, instantiate(settings.loss[name]).regions)

    def lap(x: torch.Tensor) -> torch.Tensor:
        return uniform_laplacian(x, template.neighbours)

    offset, pose_offset = posed.mean_offset, posed.mean_offset_offset
    square = (offset**2 + pose_offset**2) * regions("mean_offset")
    torch.testing.assert_close(value("mean_offset"), square.mean())
    square = (posed.base_scale**2 + posed.scale_offset**2) * regions("scale")
    torch.testing.assert_close(value("scale"), square.mean())
    # Any mesh may be added: its own Laplacian cancels.
    mesh = 0.3 * torch.randn_like(offset)
    base = (lap(mesh + offset) - lap(mesh)) ** 2 * regions("lap_mean")
    refined = (lap(mesh + offset + pose_offset) - lap(mesh)) ** 2 * regions("lap_mean")
    torch.testing.assert_close(value("lap_mean"), base.mean() + refined.mean(), rtol=1e-3, atol=0)
    maps = [lap(s) ** 2 * regions("lap_scale") for s in (posed.base_scale, posed.refined_scale)]
    torch.testing.assert_close(value("lap_scale"), sum(m.mean() for m in maps))
    maps = [lap(c) ** 2 * regions("lap_rgb") for c in (posed.base_rgb, posed.refined_rgb)]
    torch.testing.assert_close(value("lap_rgb"), sum(m.mean() for m in maps))
    hands = [c[template.hand] for c in (posed.base_rgb, posed.refined_rgb)]
    expected = sum(((c - c.mean(0)) ** 2).mean() for c in hands)
    torch.testing.assert_close(value("hand_rgb"), expected)
    change = (avatar.joint_offset - avatar.initial_joint_offset) ** 2
    expected = (change[:25].sum() + 10 * change[25:].sum()) / (55 * 3)
    torch.testing.assert_close(value("joint_offset"), expected)


def test_joint_offsets_are_counted_from_where_they_began(world):
    """Body joints are 2 cm from their start, fingers 1 cm, along one of three axes."""
    system, settings, step = world
    avatar, loss = system.avatar, instantiate(settings.loss.joint_offset)
    kept = avatar.initial_joint_offset.clone()
    try:
        change = torch.zeros(55, 3)
        change[:25, 1], change[25:, 1] = 0.02, -0.01
        avatar.initial_joint_offset.copy_(avatar.joint_offset.detach() - change)
        expected = (25 * 0.02**2 + 30 * 10 * 0.01**2) / (55 * 3)
        assert float(loss(step).detach()) == pytest.approx(expected, rel=1e-4)
    finally:
        avatar.initial_joint_offset.copy_(kept)


def test_the_face_in_its_texture_is_compared_on_the_person_alone(world):
    _, settings, step = world
    loss = instantiate(settings.loss.face)
    mask = step.frame.mask
    rows = mask[0, 0].any(1).nonzero()[:, 0]
    upper = mask.clone()
    upper[:, :, : int(rows[0]) + len(rows) // 16] = 0  # Mask without the top of the head.
    values = [
        float(loss(replace(step, frame=replace(step.frame, mask=m))).detach())
        for m in (mask, upper, 0 * mask)
    ]
    assert values[0] > values[1] > values[2] == 0


def test_hands_may_shrink_but_not_grow(world):
    system, settings, step = world
    template = system.avatar.template
    loss = instantiate(settings.loss.hand_offset)
    zero = torch.zeros_like(template.normals)

    def along(length: float, part: str) -> float:
        offsets = {"mean_offset": zero, "mean_offset_offset": zero}
        posed = replace(step.posed, **(offsets | {part: length * template.normals}))
        return float(loss(replace(step, posed=posed)))

    share = float(template.hand.float().mean())
    for part in ("mean_offset", "mean_offset_offset"):
        assert along(-0.01, part) == 0
        assert along(0.01, part) == pytest.approx(0.01 * share, rel=1e-3)


def test_undersides_of_arms_take_the_mean_of_the_upper_sides(world):
    system, settings, step = world
    template = system.avatar.template
    loss = instantiate(settings.loss.arm_rgb)
    rgb = torch.full_like(template.normals, 0.5)
    used = template.arm_valid.any(1)
    rgb[template.arm_under] = 0.2
    rgb.requires_grad_()
    posed = replace(step.posed, base_rgb=rgb, refined_rgb=torch.full_like(rgb, 0.7))
    value = loss(replace(step, posed=posed))
    assert float(value) == pytest.approx(0.3**2, rel=1e-4)
    (gradient,) = torch.autograd.grad(value, rgb)
    moving = gradient.abs().sum(1) > 0
    assert torch.equal(moving.nonzero()[:, 0], template.arm_under[used].sort().values)


def test_joint_symmetry_by_hand(world):
    """Mirrored offsets of both wrists cost nothing; an offset of one wrist does."""
    system, settings, step = world
    loss = instantiate(settings.loss.joint_symmetry)
    kept = system.avatar.joint_offset.detach().clone()
    try:
        with torch.no_grad():
            system.avatar.joint_offset.zero_()
            system.avatar.joint_offset[20] = torch.tensor([0.01, 0.02, 0.03])
            system.avatar.joint_offset[21] = torch.tensor([-0.01, 0.02, 0.03])
            assert float(loss(step)) == pytest.approx(0, abs=1e-12)
            system.avatar.joint_offset[21] = 0
            pairs = 24  # 9 of body and eyes, 15 of fingers.
            expected = (0.01**2 + 0.02**2 + 0.03**2) / (pairs * 3)
            assert float(loss(step)) == pytest.approx(expected, rel=1e-5)
            system.avatar.joint_offset.zero_()
            # Joints in the middle of the body have no pair.
            system.avatar.joint_offset[[0, 3, 6, 9, 12, 15, 22]] = 1.0
            assert float(loss(step)) == 0
    finally:
        with torch.no_grad():
            system.avatar.joint_offset.copy_(kept)


def test_the_face_in_its_texture_costs_less_where_it_belongs(world):
    """With the frame's own texture and the tracked pose, any shift of the head costs more."""
    _, settings, step = world
    loss = instantiate(settings.loss.face)
    here = float(loss(step).detach())
    for shift in ([0.03, 0.0, 0.0], [-0.03, 0.0, 0.0], [0.0, 0.03, 0.0], [0.0, -0.03, 0.0]):
        posed = replace(step.posed, base=step.posed.base.detach() + torch.tensor(shift))
        assert float(loss(replace(step, posed=posed))) > here


def test_every_frame_and_step_has_its_own_background(world):
    system, _, step = world
    method = system.method

    def background(frame, turn):
        return method.backgrounds(method.avatar.steps + turn, frame.index)

    same = background(step.frame, 0)
    assert torch.equal(background(step.frame, 0), same)
    other = replace(step.frame, index=step.frame.index + 1)
    assert not torch.equal(background(other, 0), same)
    # Fitting test poses makes many updates at the same step.
    assert not torch.equal(background(step.frame, 1), same)
    system.avatar.begin_step()
    assert not torch.equal(background(step.frame, 0), same)
    assert torch.equal(
        system.frame_step(step.frame, system.table(torch.tensor(0)), 3).background,
        background(step.frame, 3),
    )


@pytest.mark.parametrize(
    "box, size, start",
    [
        ((40, 50, 50, 100), (128, 64), (36, 33)),  # 120 and 60, rounded up to the grid.
        ((0, 0, 10, 10), (32, 32), (0, 0)),
        ((180, 240, 12, 16), (32, 32), (224, 160)),
        ((3, 3, 186, 250), (256, 192), (0, 0)),
        ((0, 0, 0, 0), (256, 192), (0, 0)),
    ],
)
def test_crop(box, size, start):
    assert crop_size(box, 1.2, 256, 192) == size
    x, y, w, h = box
    mask = torch.zeros(256, 192)
    mask[y : y + h, x : x + w] = 1
    assert tuple(Window.around(mask, size).start.tolist()) == start


def test_the_warm_up_limits_scales_and_is_not_captured(world, monkeypatch):
    system, _, _ = world
    avatar = system.avatar
    assert avatar.capturable
    monkeypatch.setattr(avatar, "warmup_steps", avatar._steps)
    assert not avatar.capturable
    posed = avatar(system.table(torch.tensor(0)))
    assert posed.base_scale.max() > avatar.warmup_scale_m
    assert posed.gaussians("base").scales.max() == avatar.warmup_scale_m


@pytest.mark.slow
def test_crops_have_few_sizes():
    """As each size needs a CUDA graph of its own."""
    sizes = {crop_size((0, 0, w, h), 1.2, 1024, 576) for w in range(1, 577) for h in range(1, 1025)}
    assert len(sizes) <= MOST_SIDES**2
    assert all(rows <= 1024 and columns <= 576 for rows, columns in sizes)


def test_the_step_is_about_the_crop(world):
    _, _, step = world
    (top, left), (height, width) = step.crop.start.tolist(), step.crop.size
    part = slice(top, top + height), slice(left, left + width)
    assert torch.equal(step.crop_truth, step.human_truth[:, *part])
    outside = step.frame.mask[0, 0].clone()
    outside[part] = 0
    assert not outside.any() and (height, width) != tuple(outside.shape)


class AsksTheHost(TorchDispatchMode):
    """Fails on operations that wait for a GPU or copy to it, as graphs cannot capture them."""

    WAITS = (
        "aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::masked_select",
        "aten::_unique2", "aten::repeat_interleave", "aten::linalg_inv_ex",
    )  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in self.WAITS, func
        if func._schema.name in ("aten::index", "aten::index_put", "aten::index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), (
                "a mask used as an index waits for the device"
            )
        return func(*args, **(kwargs or {}))


def test_a_step_asks_the_host_for_nothing(world, monkeypatch):
    """Without rasterisers and nearest vertices, which have other code on CUDA."""
    system, _, step = world
    frame = step.frame
    monkeypatch.setattr(exavatar, "nearest_vertex", nearest_of_all)
    monkeypatch.setattr(
        textured_face, "nearest_faces", lambda v, f, c: torch.zeros(c.height, c.width).long()
    )
    sheet = torch.ones(1, frame.camera.height, frame.camera.width)

    def render(gaussians, camera, channels):
        total = gaussians.means.sum() + gaussians.scales.sum()
        values = channels["rgb"].values.mean(0)[:, None, None] * sheet
        return Render({"rgb": values + total}, sheet * total)

    monkeypatch.setattr(type(system.method), "renderer", staticmethod(render), raising=False)
    table = PoseTable(system.body, num_frames=1)
    with torch.no_grad():
        for row in (table.joints, table.hands):
            row.normal_()
    first = frame.index * 0
    with AsksTheHost():
        total, _ = system.losses(system.frame_step(frame, table(first[0])))
        total.backward()
    assert torch.isfinite(total)
