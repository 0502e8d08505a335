"""Unwrapping rendered frames gives the texture that they were painted with."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from persona.data.layout import FrameData
from persona.data.palette import PART_COLOURS, PART_INDEX
from persona.data.preprocess.several import unwrap_photos
from persona.data.preprocess.unwrap import UvMesh, View, texels_of, unwrap
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyPose, Camera

SIZE = 96
UPPER, LOWER = PART_INDEX["Upper_Clothing"], PART_INDEX["Lower_Clothing"]


def ball(rows=24, columns=48):
    """A sphere of radius 0.5 m whose texture has a seam from pole to pole."""
    v, u = torch.meshgrid(
        torch.linspace(0.02, 0.98, rows), torch.linspace(0, 1, columns + 1), indexing="ij"
    )
    height, angle = math.pi * (v - 0.5), 2 * math.pi * u
    x, z = height.cos() * angle.sin(), -height.cos() * angle.cos()
    rest = torch.stack((x, -height.sin(), z), -1)[:, :columns] / 2
    a = torch.arange(rows - 1)[:, None] * (columns + 1) + torch.arange(columns)
    a = a.reshape(-1)
    b, c, d = a + 1, a + columns + 1, a + columns + 2
    uv_faces = torch.cat((torch.stack((a, d, c), -1), torch.stack((a, b, d), -1)))
    vertex = torch.arange(rows)[:, None] * columns + torch.arange(columns + 1) % columns
    return UvMesh(
        rest.reshape(-1, 3),
        vertex.reshape(-1)[uv_faces],
        torch.stack((u, v), -1).reshape(-1, 2),
        uv_faces,
    )


def paint(points):
    """Colours that vary smoothly over the ball."""
    return 0.5 + 0.4 * torch.sin(points * torch.tensor([5.0, 7.0, 4.0]))


def view_of(mesh, angle, mirror_x=False):
    """The ball turned about y, 3 m away, painted by its rest positions."""
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    vertices = mesh.rest @ turn.T + torch.tensor([0.0, 0.0, 3.0])
    camera = Camera.identity(torch.tensor([260.0, 260.0]), torch.tensor([50.0, 48.0]), 100, 96)
    render = rasterize(vertices, mesh.faces, camera)
    rest = interpolate(render, mesh.faces, mesh.rest)
    mask = render.mask.numpy()
    image = (paint(rest) * render.mask[..., None] * 255).byte().numpy()
    part = np.where(rest[..., 1].numpy() < 0, UPPER, LOWER) * mask
    pose = BodyPose.zero(0)
    depth, normal = render.depth.numpy(), np.zeros((100, 96, 3), np.float32)
    frame = FrameData(image, mask, camera, pose, depth, normal, PART_COLOURS[part])
    return View(frame, vertices)


def truth(mesh):
    texels = texels_of(mesh, SIZE)
    rest = texels.features(mesh.rest)
    return texels, rest


def test_ball_faces_outwards():
    mesh = ball()
    a, b, c = mesh.rest[mesh.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    assert ((normal * a).sum(-1) > 0).all()


@pytest.mark.parametrize("angles", [(0.0,), (0.0, 2.1, 4.2)])
def test_seen_texels_have_the_painted_colour(angles):
    mesh = ball()
    textures = unwrap([view_of(mesh, a) for a in angles], mesh, SIZE)
    texels, rest = truth(mesh)
    mask = torch.from_numpy(textures.mask).flatten()[texels.index]
    assert mask.float().mean() > (0.3 if len(angles) == 1 else 0.8)
    texture = torch.from_numpy(textures.texture).flatten(0, 1)[texels.index].float() / 255
    error = (texture - paint(rest)).abs().amax(-1)[mask]
    assert error.mean() < 0.02 and error.quantile(0.99) < 0.08
    expected = PART_COLOURS[np.where(rest[:, 1] < 0, UPPER, LOWER)]
    actual = textures.seg_inpaint.reshape(-1, 3)[texels.index]
    near_border = (rest[:, 1].abs() < 0.03).numpy()
    assert (actual == expected).all(-1)[mask.numpy() & ~near_border].all()


def test_unseen_texels_are_black_before_and_filled_after():
    mesh = ball()
    textures = unwrap([view_of(mesh, 0.0)], mesh, SIZE)
    assert not textures.texture[~textures.mask].any()
    assert (textures.inpaint.reshape(-1, 3).sum(-1) > 0).all()
    known = textures.mask
    assert np.array_equal(textures.inpaint[known], textures.texture[known])
    colours = {tuple(c) for c in textures.seg_inpaint.reshape(-1, 3)}
    assert colours == {tuple(PART_COLOURS[UPPER]), tuple(PART_COLOURS[LOWER])}


def test_holes_are_filled_across_the_cut():
    """A hole beside the seam takes its colour from the other edge of the texture."""
    mesh = ball()
    texels, rest = truth(mesh)
    # Texels with u in about (0, 0.2) are hidden; their nearest seen texels have u near 1.
    textures = unwrap([view_of(mesh, math.pi / 2 + a) for a in (0.6, -0.6)], mesh, SIZE)
    mask = textures.mask.reshape(-1)[texels.index]
    filled = torch.from_numpy(textures.inpaint).flatten(0, 1)[texels.index].float() / 255
    error = (filled - paint(rest)).abs().amax(-1)
    assert 0.02 < 1 - mask.mean() < 0.6
    column = texels.index % SIZE
    beside_cut = torch.from_numpy(~mask) & ((column < 2) | (column >= SIZE - 2))
    assert beside_cut.any() and error[beside_cut].mean() < 0.2


def test_hidden_texels_are_not_seen():
    """A second ball in front hides texels of the first one."""
    front, back = ball(), ball()
    count = len(front.rest)
    rest = torch.cat((front.rest * 0.4 - torch.tensor([0.0, 0.0, 1.0]), back.rest))
    half = torch.tensor([0.5, 1.0])
    mesh = UvMesh(
        rest,
        torch.cat((front.faces, back.faces + count)),
        torch.cat((front.uv * half, back.uv * half + torch.tensor([0.5, 0.0]))),
        torch.cat((front.uv_faces, back.uv_faces + len(front.uv))),
    )
    view = view_of(mesh, 0.0)
    textures = unwrap([view], mesh, SIZE)
    texels, rest = truth(mesh)
    behind = (
        (texels.corners >= count).all(-1) & (rest[:, :2].norm(dim=-1) < 0.15) & (rest[:, 2] < 0)
    )
    assert behind.sum() > 20
    assert not textures.mask.reshape(-1)[texels.index[behind]].any()


def test_face_patch_replaces_the_image_on_the_face():
    mesh = ball()
    view = view_of(mesh, 0.0)
    patch = np.full((32, 32, 3), 200, np.uint8)
    patch[..., 1:] = 10
    box = np.array([40, 38, 20, 20], np.float32)
    frame = FrameData(**(vars(view.frame) | {"patch": patch, "patch_box_px": box}))
    face = mesh.rest[:, 2] < -0.4
    textures = unwrap([View(frame, view.vertices)], mesh, SIZE, face)
    red = (textures.texture == (200, 10, 10)).all(-1)
    texels, rest = truth(mesh)
    central = (rest[:, :2].norm(dim=-1) < 0.06) & (rest[:, 2] < 0)
    assert central.any() and red.reshape(-1)[texels.index[central]].all()
    assert not red.reshape(-1)[texels.index[rest[:, 2] > -0.38]].any()


def test_nothing_in_view_is_an_error():
    mesh = ball()
    view = view_of(mesh, 0.0)
    with pytest.raises(ValueError, match="no frame"):
        unwrap([View(view.frame, view.vertices * -1)], mesh, SIZE)


def test_several_photographs_become_one_texture_in_the_light_of_the_first():
    """Views add texels; darker ones and a blurred one hardly change the colours."""
    mesh, views = ball(), []
    for angle, light in ((0.0, 1.0), (1.3, 0.6), (2.6, 1.0), (4.2, 0.7)):
        view = view_of(mesh, angle)
        image = (view.frame.image * light ** (1 / 2.2)).astype(np.uint8)
        if angle == 2.6:
            image = cv2.GaussianBlur(image, (0, 0), 4)
        views.append(View(replace(view.frame, image=image), view.vertices))
    texels, rest = truth(mesh)
    shares = []
    for count in (1, 2, 4):
        textures = unwrap_photos(views[:count], mesh, SIZE, list("abcd")[:count])
        mask = torch.from_numpy(textures.mask).flatten()[texels.index]
        shares.append(float(mask.float().mean()))
    # No view shows the poles, or faces at angles above 84 degrees.
    assert shares[0] < 0.4 and shares[0] + 0.1 < shares[1] < shares[2] - 0.2
    found = torch.from_numpy(textures.texture).flatten(0, 1)[texels.index].float() / 255
    error = (found - paint(rest)).abs().mean(-1)
    # Not 0: some texels have only the blurred view, and some exposure is mistaken for light.
    assert error[mask].mean() < 0.045, error[mask].mean()
    plain = unwrap(views, mesh, SIZE)
    found = torch.from_numpy(plain.texture).flatten(0, 1)[texels.index].float() / 255
    assert (found - paint(rest)).abs().mean(-1)[mask].mean() > 1.5 * error[mask].mean()


def test_the_first_photograph_keeps_what_it_shows_obliquely():
    """Another one that shows the same texels squarely only adds what the first does not show."""
    mesh = ball()
    views = [view_of(mesh, angle) for angle in (0.0, 1.3)]
    colours = np.array([(200, 10, 10), (10, 200, 10)], np.uint8)
    painted = [
        View(replace(v.frame, image=np.broadcast_to(c, v.frame.image.shape).copy()), v.vertices)
        for v, c in zip(views, colours, strict=True)
    ]
    first, both = (unwrap_photos(painted[:n], mesh, SIZE, ["a", "b"][:n]) for n in (1, 2))
    added = both.mask & ~first.mask
    assert added.sum() > 0.1 * first.mask.sum()
    assert np.abs(both.texture[first.mask].astype(int) - colours[0]).max() < 0.1 * 255
    assert np.abs(both.texture[added].astype(int) - colours[1]).max() <= 1
