"""Learnt corrections of skinning and normals: zero at first, and able to learn known truth."""

import math

import pytest
import torch
import torch.nn.functional as F
from bare_module import bare

from persona.errors import UserError
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import PoseDriver
from persona.modules.avatar.gaussian_avatar import GaussianAvatar
from persona.modules.avatar.learnt_normals import LearntNormals
from persona.modules.avatar.learnt_skinning import NEAR_EDGES, LearntSkinning
from persona.modules.avatar.light import sun_and_sky
from persona.modules.avatar.pose_code import kinematic_ring
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.skinning import blend_bones, blend_skin
from persona.modules.body.topology import uniform_laplacian, vertex_normals
from persona.modules.losses.corrections import CorrectionPrior
from persona.modules.losses.persona_step import PersonaStep
from persona.types import BodyPose, View

PELVIS, LEFT_HIP, LEFT_ANKLE, HEAD = 0, 1, 7, 15


@pytest.fixture(scope="module")
def corrected(body):
    torch.manual_seed(0)
    builder = AvatarBuilder(
        levels=0, diffused_skinning=False, triplane_resolution=8, light="sh",
        learnt_skinning=True, learnt_normals=True,
    )  # fmt: skip
    avatar = builder.build(body, body.zero_identity()).eval()
    with torch.no_grad():
        avatar.rgb_logit.copy_(avatar.template.vertices)
        toward = torch.tensor([1.0, -1, -1])
        avatar.light.coefficients.copy_(sun_and_sky(toward, 0.8, 0.3, torch.tensor([0.0, -1, 0])))
    return avatar


@pytest.fixture
def learnt(corrected):
    """The avatar with random corrections."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (corrected.skinning.log_factor, corrected.normals.tilt):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    yield corrected
    with torch.no_grad():
        corrected.skinning.log_factor.zero_()
        corrected.normals.tilt.zero_()


def stride(body, angle: float = 1.0):
    pose = BodyPose.zero(body.num_expression)
    pose.body[LEFT_HIP - 1, 0] = -angle
    return matrix_pose(body, pose)


@torch.no_grad()
def test_they_begin_as_the_bodys(body, corrected):
    template, pose = corrected.template, stride(body)
    weights = corrected.skinning(template, template.weights)
    torch.testing.assert_close(weights, template.weights, atol=1e-6, rtol=0)
    posed = corrected(pose)
    normals = vertex_normals(posed.refined, template.faces)
    tilted = corrected.normals(template, normals, weights, posed.bones)
    torch.testing.assert_close(tilted, normals, atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_near_joints_and_never_hands_or_face(body, learnt):
    template = learnt.template
    weights = learnt.skinning(template, template.weights)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert weights.min() >= 0
    kept = template.hand | template.face | template.eye
    torch.testing.assert_close(weights[kept], template.weights[kept], atol=1e-6, rtol=0)
    changed = (weights - template.weights)[~kept].abs().amax(1)
    assert (changed > 1e-3).float().mean() > 0.9
    own = len(template.coarse_vertices)
    main = template.weights[:own].argmax(1)
    far = ~kinematic_ring(body.parents, NEAR_EDGES)[main]
    new = far & (template.weights[:own] == 0)
    assert weights[:own][new].max() == 0, "a vertex got weight from a distant joint"
    skin = LearntSkinning(template)
    assert not skin.allowed[main == LEFT_ANKLE, HEAD].any()


def test_a_skirt_over_the_thigh_learns_to_follow_the_pelvis(body, corrected):
    """From positions alone it learns that points of the thigh follow the pelvis."""
    template = corrected.template
    skin = LearntSkinning(template)
    hangs = template.weights[:, LEFT_HIP] > 0.5
    true = template.weights.clone()
    true[hangs] = F.one_hot(torch.tensor(PELVIS), true.shape[1]).float()
    bones = [corrected.bones(stride(body, angle).rotations).detach() for angle in (0.5, 1.0)]
    targets = [blend_skin(template.vertices, true, b) for b in bones]

    def error() -> torch.Tensor:
        weights = skin(template, template.weights)
        off = [
            blend_skin(template.vertices, weights, b) - t
            for b, t in zip(bones, targets, strict=True)
        ]
        return torch.stack(off).square().sum(-1)

    before = error()[:, hangs].mean().sqrt().item()
    optimizer = torch.optim.Adam(skin.parameters(), 0.2, eps=1e-15)
    for _ in range(40):
        optimizer.zero_grad()
        error().mean().backward()
        optimizer.step()
    after = error()[:, hangs].mean().sqrt().item()
    assert before > 0.1
    assert after < 0.15 * before
    elsewhere = template.weights[:, HEAD] > 0.5
    assert skin(template, template.weights)[elsewhere, HEAD].min() > 0.49


@torch.no_grad()
def test_tilts_turn_with_the_skin(body, learnt):
    """Equals the formula; and turning person and camera together does not change colours."""
    template, pose = learnt.template, stride(body, 0.7)
    posed = learnt(pose)
    weights = learnt.skinning_weights(posed.refined_canonical, posed.scales)
    normals = vertex_normals(posed.refined, template.faces)
    tilted = learnt.normals(template, normals, weights, posed.bones)
    turn = blend_bones(weights, posed.bones)[:, :3, :3]
    own = len(template.coarse_vertices)
    expected = normals[:own] + torch.einsum("nij,nj->ni", turn[:own], learnt.normals.tilt)
    torch.testing.assert_close(tilted[:own], F.normalize(expected, dim=-1))
    world = matrix_from_axis_angle(torch.tensor([0.3, -0.5, 0.2]))
    rotations = pose.rotations.clone()
    rotations[0] = world @ rotations[0]
    moved = type(pose)(rotations, pose.expression, pose.trans)
    seen = learnt(moved, View(camera_rotation=world))
    torch.testing.assert_close(seen.rgb, posed.rgb, atol=1e-4, rtol=0)


def test_normals_are_learnt_from_shades_of_one_light(body, corrected):
    """Tilted normals of the chest are learnt from shading in three turns under one light."""
    template, light = corrected.template, corrected.light
    normals, tilts = LearntNormals(template), LearntNormals(template)
    chest = template.coarse_vertices[:, 1] > 0
    with torch.no_grad():
        tilts.tilt[chest] = torch.tensor([0.5, 0.0, 0.3])
    scenes = []
    for angle in (-0.8, 0.1, 0.9):
        pose = BodyPose.zero(body.num_expression)
        pose.root[1] = math.pi + angle
        posed = corrected(matrix_pose(body, pose))
        scenes.append((vertex_normals(posed.refined, template.faces).detach(), posed.bones))
    weights = template.weights

    def shades(which: LearntNormals) -> torch.Tensor:
        lit = [light(which(template, n, weights, b)) for n, b in scenes]
        return torch.stack(lit)

    target = shades(tilts).detach()
    before = (shades(normals) - target).abs().mean().item()
    optimizer = torch.optim.Adam(normals.parameters(), 5e-2, eps=1e-15)
    for _ in range(40):
        optimizer.zero_grad()
        (shades(normals) - target).square().mean().backward()
        optimizer.step()
    assert (shades(normals) - target).abs().mean().item() < 0.1 * before


@torch.no_grad()
def test_a_driver_poses_and_lights_as_the_avatar_does(body, learnt):
    driver, pose = PoseDriver(learnt, "refined"), stride(body, 0.7)
    rows = driver.clip(type(pose)(*(t[None] for t in vars(pose).values())))
    (gaussians, colors), posed = driver.drawn(rows[0]), learnt(pose)
    torch.testing.assert_close(gaussians.means, posed.refined, atol=1e-5, rtol=0)
    torch.testing.assert_close(colors, posed.rgb, atol=1e-5, rtol=0)


def prior_of(step: PersonaStep, of: str, shrink: float) -> float:
    return CorrectionPrior(weight=1.0, of=of, shrink=shrink)(step).item()


@torch.no_grad()
def test_the_priors_see_what_is_rough_and_what_is_large(corrected):
    template = corrected.template
    step = object.__new__(PersonaStep)
    step.avatar = bare(
        GaussianAvatar,
        template=template, skinning=LearntSkinning(template), normals=LearntNormals(template),
    )  # fmt: skip
    assert prior_of(step, "skinning", 0.0) == 0
    step.avatar.normals.tilt[:, 0] = 0.5
    step.avatar.skinning.log_factor[100] = 2.0
    rough = prior_of(step, "normals", 0.0)
    assert rough < 1e-10
    assert prior_of(step, "normals", 1.0) - rough == pytest.approx(0.25 / 3)
    rough = prior_of(step, "skinning", 0.0)
    size = prior_of(step, "skinning", 1.0) - rough
    assert rough > size, "a single changed vertex must cost more by roughness than by size"


def test_what_was_pushed_below_zero_comes_back_and_goes_no_further(corrected):
    template = corrected.template
    skin = LearntSkinning(template)
    weights = template.weights[: len(template.coarse_vertices)]
    free = skin.allowed & (weights[:, : skin.allowed.shape[1]] == 0)
    skin.log_factor.data[free] = -1.0
    row, joint = free.nonzero()[0].tolist()
    for sign in (-1.0, 1.0):
        skin.log_factor.grad = None
        made = skin(template, template.weights)[row, joint]
        assert made == 0
        (sign * made).backward()
        gradient = skin.log_factor.grad[row, joint]
        assert gradient < 0 if sign < 0 else gradient == 0


def test_rates_and_an_avatar_without_corrections(body, corrected):
    rates = {"means": 1.0, "appearance": 2.0, "network": 3.0, "skinning": 4.0, "normals": 5.0}
    groups = {str(g["name"]): g for g in corrected.parameter_groups(rates)}
    assert groups["skinning"]["lr"] == 4.0
    assert groups["normals"]["params"][0] is corrected.normals.tilt
    plain = AvatarBuilder(levels=0, diffused_skinning=False, pose_offsets=False)
    avatar = plain.build(body, body.zero_identity())
    step = object.__new__(PersonaStep)
    step.avatar = avatar
    for of in ("skinning", "normals"):
        assert CorrectionPrior(weight=1.0, of=of, shrink=0.1)(step) == 0
    with pytest.raises(UserError, match="of=skin is unknown"):
        CorrectionPrior(weight=1.0, of="skin", shrink=0.1)
    with pytest.raises(UserError, match="needs a light"):
        AvatarBuilder(learnt_normals=True)


@torch.no_grad()
def test_the_prior_is_of_the_correction_that_it_names(learnt):
    step = object.__new__(PersonaStep)
    step.avatar = learnt
    for of, values in (("skinning", learnt.skinning), ("normals", learnt.normals)):
        prior = CorrectionPrior(weight=1.0, of=of, shrink=0.3)(step)
        (parameter,) = values.parameters()
        rough = uniform_laplacian(parameter, learnt.template.coarse_neighbours).square().mean()
        torch.testing.assert_close(prior, rough + 0.3 * parameter.square().mean())
