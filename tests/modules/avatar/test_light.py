"""Light by nine harmonics, compared with brute force, and on an avatar that turns in it."""

import math
import shutil

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import PoseDriver
from persona.modules.avatar.light import GAMMA, SphericalLight, sun_and_sky, turned_light
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.avatar.spherical_harmonics import sh_basis
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.topology import vertex_normals
from persona.types import BodyPose, View


def sphere(count: int = 4000) -> torch.Tensor:
    """Evenly spread directions, on Fibonacci's spiral."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * i / count, i * math.pi * (1 + 5**0.5)
    ring = (1 - z * z).sqrt()
    return torch.stack((ring * turn.cos(), ring * turn.sin(), z), -1)


def test_harmonics_are_orthogonal():
    basis = sh_basis(sphere())
    gram = basis.T @ basis / len(basis)
    off = gram - gram.diag().diag()
    assert off.abs().max() < 1e-3
    assert gram[0, 0] == pytest.approx(1)


def test_sun_and_sky_come_near_to_what_falls_on_a_matte_ball():
    """Coefficients are the true light's projection; the error is at most a tenth of the sun."""
    up, toward = torch.tensor([0.0, -1, 0]).double(), torch.tensor([2.0, -3, -1]).double()
    normals = sphere()
    cosine = (normals @ toward / toward.norm()).clamp(min=0)
    true = 0.8 * cosine + 0.4 * (1 + 0.25 * normals @ up)
    found = sun_and_sky(toward, 0.8, 0.4, up)
    basis = sh_basis(normals)
    projected = torch.linalg.solve(basis.T @ basis, basis.T @ true)
    torch.testing.assert_close(found, projected, atol=2e-3, rtol=0)
    assert (basis @ found - true).abs().max() < 0.1 * 0.8


@pytest.fixture(scope="module")
def lit(body):
    torch.manual_seed(0)
    builder = AvatarBuilder(levels=0, diffused_skinning=False, triplane_resolution=8, light="sh")
    avatar = builder.build(body, body.zero_identity()).eval()
    with torch.no_grad():
        avatar.rgb_logit.copy_(avatar.template.vertices)
        avatar.offsets.triplane.planes.normal_()
    return avatar


def turned(body, angle: float):
    pose = BodyPose.zero(body.num_expression)
    pose.root[1] = angle
    return matrix_pose(body, pose)


@torch.no_grad()
def test_even_light_changes_nothing_and_a_sun_lights_the_side_that_faces_it(body, lit):
    even = lit(turned(body, 0.4))
    torch.testing.assert_close(even.rgb, even.albedo)
    toward = torch.tensor([1.0, 0, 0])
    lit.light.coefficients.copy_(sun_and_sky(toward, 0.8, 0.2, torch.tensor([0.0, -1, 0])))
    front, back = (lit(turned(body, angle)) for angle in (0.0, math.pi))
    ratio = (front.rgb / front.albedo).mean(1), (back.rgb / back.albedo).mean(1)
    facing = vertex_normals(front.refined, lit.template.faces)[:, 0] > 0.7
    assert ratio[0][facing].min() > 1.3 * ratio[1][facing].max()
    assert (front.rgb_aux / even.rgb_aux).std() > 0.05, "the auxiliary colours must be lit as well"


@torch.no_grad()
def test_the_light_stays_in_the_world_of_the_view(body, lit):
    """Turning person and camera together does not change colours."""
    turn = matrix_from_axis_angle(torch.tensor([0.3, -0.5, 0.2]))
    pose = turned(body, 0.4)
    rotations = pose.rotations.clone()
    rotations[0] = turn @ rotations[0]
    moved = type(pose)(rotations, pose.expression, pose.trans)
    plain, seen = lit(pose), lit(moved, View(camera_rotation=turn))
    torch.testing.assert_close(seen.rgb, plain.rgb, atol=1e-4, rtol=0)
    assert (lit(moved).rgb - plain.rgb).abs().max() > 0.01


@torch.no_grad()
def test_a_driver_lights_as_the_avatar_does(body, lit):
    driver, pose = PoseDriver(lit, "refined"), turned(body, 0.7)
    rows = driver.clip(type(pose)(*(t[None] for t in vars(pose).values())))
    torch.testing.assert_close(driver.drawn(rows[0])[1], lit(pose).rgb, atol=1e-5, rtol=0)


def test_light_is_learnt_from_shaded_colours():
    light, normals = SphericalLight(), sphere(200).float()
    true = sun_and_sky(torch.tensor([0.3, -0.8, -0.5]), 0.75, 0.5, torch.tensor([0.0, -1, 0]))
    target = (sh_basis(normals) @ true).clamp_min(0.02)[:, None] ** (1 / GAMMA)
    optimizer = torch.optim.Adam(light.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (light(normals) - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(light.coefficients.detach(), true, atol=0.03, rtol=0)


def test_its_parameters_have_a_rate_and_other_lights_are_refused(body, lit):
    groups = lit.parameter_groups({"means": 1.0, "appearance": 2.0, "network": 3.0})
    assert any(p is lit.light.coefficients for p in groups[1]["params"])
    with pytest.raises(UserError, match="light=sun"):
        AvatarBuilder(light="sun")


def test_a_fit_finds_the_light_of_the_seen_half_and_keeps_the_rest_low():
    light, normals = SphericalLight(), sphere(2000).float()
    normals = normals[normals[:, 2] < 0]
    true = sun_and_sky(torch.tensor([0.3, -0.8, -0.5]), 0.75, 0.5, torch.tensor([0.0, -1, 0]))
    factors = (sh_basis(normals) @ true).clamp_min(0.02) ** (1 / GAMMA)
    light.fit(normals, factors)
    torch.testing.assert_close(light(normals)[:, 0], factors, atol=0.03, rtol=0)
    assert light(-normals).max() < 1.5


@torch.no_grad()
def test_light_taken_off_the_colours_shows_them_again_from_the_same_side(body, lit):
    """Except where the colour without light would be brighter than white."""
    pose, before = turned(body, math.pi), lit.rgb_logit.clone()
    shown = before.sigmoid()
    lit.light.coefficients.copy_(
        sun_and_sky(torch.tensor([1.0, 0, -1]), 0.5, 0.5, torch.tensor([0.0, -1, 0]))
    )
    lit.remove_light(pose)
    posed = lit(pose)
    normals = vertex_normals(posed.refined, lit.template.faces)
    seen = (normals * posed.refined).sum(1) < 0
    whole = (lit.rgb_logit.sigmoid() < 0.999).all(1)
    assert 0.2 < (seen & whole).float().mean() < 0.7
    torch.testing.assert_close(posed.rgb[seen & whole], shown[seen & whole], atol=1e-4, rtol=0)
    lit.rgb_logit.copy_(before)


def test_a_method_starts_with_the_light_between_photo_and_albedo(tiny, subjects, tmp_path):
    method = instantiate(tiny("avatar.light=photo").system.method)
    subject = Subject(subjects / "tiny")
    method.build(subject.identity(method.body))
    method.initialise(subject)
    light = method.avatar.light
    frame = subject.frame("captured", 0)
    mask = frame.mask
    normals = torch.from_numpy(frame.normal[mask]) * torch.tensor([1.0, -1, -1])
    with torch.no_grad():
        factor = light(normals).numpy()
    relit = (frame.albedo[mask] * factor - frame.image[mask]) / 255
    flat = (frame.albedo[mask] * factor.mean() - frame.image[mask]) / 255
    assert np.abs(relit).mean() < 0.6 * np.abs(flat).mean()
    # The light is not trained, and cannot be computed without an albedo.
    groups = method.avatar.parameter_groups({"means": 1.0, "appearance": 2.0, "network": 3.0})
    given = {id(p) for group in groups for p in group["params"]}
    assert id(light.coefficients) not in given and not light.coefficients.requires_grad
    bare = Subject(shutil.copytree(subject.root, tmp_path / "bare"))
    bare.path("captured", "albedo", 0).unlink()
    with pytest.raises(UserError, match=r"has no albedo that avatar\.light=photo"):
        method._initialise_light(bare)


def test_a_turned_light_falls_on_turned_normals_as_before():
    generator = torch.Generator().manual_seed(3)
    harmonics = torch.randn(9, generator=generator)
    turn = matrix_from_axis_angle(torch.tensor([0.3, -1.2, 0.7]))
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=-1)
    found = sh_basis(normals @ turn.T) @ turned_light(harmonics, turn)
    torch.testing.assert_close(found, sh_basis(normals) @ harmonics, atol=1e-5, rtol=1e-5)
