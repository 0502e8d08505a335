"""From a portrait to a head: hair by colour, mirrored texture, bad inputs."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from persona.commands.create_head import head_folder
from persona.data.heads.fit import FACING
from persona.data.heads.person import rest_head
from persona.data.heads.portrait_ears import covered_ears, pressed
from persona.data.heads.portrait_hair import border_of, find_hair, hair_height, stray_hair
from persona.data.heads.portrait_texture import paint, twins, unwrap_head
from persona.data.layout import FrameData
from persona.data.palette import PART_INDEX, colours_from_classes
from persona.data.preprocess.maps import body_maps
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.topology import vertex_normals
from persona.modules.detect.face import Face, FaceFinder
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyPose, Camera

SIDE = 96
CAMERA = Camera.identity(torch.full((2,), 320.0), torch.full((2,), SIDE / 2), SIDE, SIDE)


@pytest.fixture(scope="module")
def head():
    """The mean head in front of the camera: body, pose, vertices, maps."""
    body = HeadBody()
    pose = replace(
        BodyPose.zero(body.num_expression), root=torch.tensor(FACING),
        trans=torch.tensor([0.0, 0.22, 1.1]),
    )  # fmt: skip
    vertices, _ = body(body.zero_identity(), pose)
    return body, pose, vertices, body_maps(vertices, body.faces, CAMERA)


def face_of(body, vertices):
    points = CAMERA.project(body.landmarks(vertices))
    return Face(points, points[[42, 36]])


def portrait(head, hair_px):
    """Image, mask and hair of a skin-coloured head with dark hair above, on white."""
    body, _, vertices, maps = head
    grown = cv2.dilate(maps.mask.astype(np.uint8), np.ones((2 * hair_px + 1,) * 2)) > 0
    brow = float(face_of(body, vertices).points[[19, 24], 1].mean())
    above = np.arange(SIDE)[:, None] < brow - 6
    hair = grown & above
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    image[maps.mask], image[hair] = (215, 170, 150), (30, 22, 20)
    return image, maps.mask | hair, hair


def test_hair_is_what_has_the_colour_over_the_forehead(head):
    body, _, vertices, _ = head
    image, mask, hair = portrait(head, 5)
    found = find_hair(image, mask, face_of(body, vertices))
    assert (found == hair).mean() > 0.99
    bald = np.where(mask[..., None], np.uint8([215, 170, 150]), np.uint8(255))
    assert not find_hair(bald, mask, face_of(body, vertices)).any()


def test_brown_hair_on_brown_skin_is_found_and_a_beard_is_none(head):
    """Lab distances of 20 and 60; both hang on nothing else of their colour."""
    body, _, vertices, _ = head
    face = face_of(body, vertices)
    image, mask, hair = portrait(head, 5)
    chin = np.arange(SIDE)[:, None] > float(face.points[8, 1]) + 3
    for skin, tone in (((130, 90, 70), (80, 50, 40)), ((215, 170, 150), (30, 22, 20))):
        image[mask], image[hair | (mask & chin)] = skin, tone
        assert (find_hair(image, mask, face) == hair).mean() > 0.99


def test_the_bright_rim_of_a_head_against_the_light_is_no_hair(head):
    """Hair of the skin's colour, which is not found, with a light line around it."""
    body, _, vertices, _ = head
    image, mask, hair = portrait(head, 5)
    image[mask] = (150, 110, 85)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
    image[hair & ~inner] = (250, 235, 200)
    assert not find_hair(image, mask, face_of(body, vertices)).any()


def test_hair_is_as_high_as_the_outline_says(head):
    """Five pixels at 1.1 m and a focal length of 320 pixels are 17 mm; at most 7 mm off."""
    body, _, vertices, _ = head
    _, _, hair = portrait(head, 5)
    rest = rest_head(body, body.zero_identity())
    covered, height = hair_height(rest, vertices, hair, face_of(body, vertices), CAMERA)
    top = rest.mean[:, 1] > np.quantile(rest.mean[:, 1], 0.97)
    assert 0.011 < float(height[top].median()) < 0.024
    assert (height[rest.mean[:, 1] < -0.05] == 0).all() and height.min() >= 0
    assert covered[top].median() == 1 and (covered[rest.mean[:, 1] < -0.05] == 0).all()


def test_long_hair_covers_neck_and_shoulders_from_behind_down_to_its_end(head):
    """A strip on either side of the neck, which ends between chin and lower rim of the bust."""
    body, _, vertices, maps = head
    _, _, hair = portrait(head, 5)
    face = face_of(body, vertices)
    chin, bottom = int(face.points[8, 1]), int(np.nonzero(maps.mask)[0].max())
    end = (chin + bottom) // 2
    left, right = int(face.points[0, 0]), int(face.points[16, 0])
    rows = slice(SIDE // 3, end)
    hair[rows, left - 12 : left + 2] = hair[rows, right - 2 : right + 12] = True
    rest = rest_head(body, body.zero_identity())
    covered, height = hair_height(rest, vertices, hair, face, CAMERA)
    row, x, z = CAMERA.project(vertices)[:, 1].numpy(), *rest.mean[:, [0, 2]].T
    behind = (z < -0.03) & (np.abs(x) < 0.08) & (row > chin - 6)
    above, below = behind & (row < end - 7), behind & (row > end + 3)
    assert above.sum() > 10 and below.sum() > 10
    assert (covered[above] > 0.5).all() and (height[above] > 0.002).all()
    assert not covered[below].any() and not height[below].any()
    throat = (z > 0.02) & (row > chin) & (np.abs(x) < 0.02)
    assert not covered[throat].any()


def test_stray_hair_takes_thin_strands_along_and_leaves_face_and_scalp(head):
    body, _, vertices, maps = head
    face = face_of(body, vertices)
    left, chin = (int(face.points[n, axis]) for n, axis in ((0, 0), (8, 1)))
    hair, skin = np.zeros_like(maps.mask), maps.mask.copy()
    hair[: chin + 10, left - 3 : left - 1] = True
    skin[: SIDE // 3] = False
    stray = stray_hair(hair, skin, face)
    assert stray[hair & skin].all() and not stray[~skin].any()
    assert stray[chin + 5, left] and skin[chin + 5, left]
    eyes = face.points[36:48].long()
    assert not stray[eyes[:, 1], eyes[:, 0]].any()


def test_ears_are_covered_where_the_picture_shows_hair(head):
    """Hair over one side of a head that faces the camera, over both, and none."""
    body, _, vertices, maps = head
    rest = rest_head(body, body.zero_identity())
    render = rasterize(vertices, body.faces, CAMERA)
    columns = np.broadcast_to(np.arange(SIDE), (SIDE, SIDE))
    ear, left = rest.ear > 0.3, vertices[:, 0].numpy() < 0
    for hair, expected in (
        (np.zeros_like(maps.mask), ear & False),
        (maps.mask & (columns < SIDE / 2), ear & left),
        (maps.mask, ear),
    ):
        found = covered_ears(rest, render, hair, maps.mask)
        assert (found[ear] == expected[ear]).all() and not found[rest.ear == 0].any()


def test_pressed_ears_do_not_stick_out(head):
    """A bump of a plane becomes flat, and so do ears: a centimetre and more nearer to the skull."""
    columns, rows = np.meshgrid(np.arange(7.0), np.arange(7.0))
    plane = np.stack([columns.ravel(), rows.ravel(), np.zeros(49)], 1)
    corner = (np.arange(6)[:, None] * 7 + np.arange(6)).ravel()
    faces = np.concatenate([
        np.stack([corner, corner + 1, corner + 8], 1), np.stack([corner, corner + 8, corner + 7], 1)
    ])  # fmt: skip
    inner = ((columns > 1) & (columns < 5) & (rows > 1) & (rows < 5)).ravel()
    bump = plane + inner[:, None] * np.random.default_rng(0).normal(size=(49, 3))
    assert np.allclose(pressed(bump, faces, inner), plane)
    rest = rest_head(head[0], head[0].zero_identity())
    flat = pressed(rest.rest, rest.faces, rest.ear > 0.05)
    assert (flat[rest.ear <= 0.05] == rest.rest[rest.ear <= 0.05]).all()
    assert (
        np.abs(rest.rest[rest.ear > 0.05, 0]).max() > np.abs(flat[rest.ear > 0.05, 0]).max() + 0.01
    )


def nowhere(body):
    """No hair: how much of it is on each vertex, and how surely there is none."""
    return torch.zeros(body.num_vertices), torch.ones(body.num_vertices)


def test_unseen_hair_has_hairs_colour_and_unseen_skin_skins(head):
    """The picture shows hair above the brows; behind, it covers the skull and no neck."""
    body, pose, vertices, maps = head
    image, mask, hair = portrait(head, 0)
    parts = np.where(hair, PART_INDEX["Hair"], PART_INDEX["Face_Neck"]) * maps.mask
    frame = FrameData(
        image=image, mask=maps.mask, camera=CAMERA, pose=pose, depth=maps.depth,
        normal=maps.normal, seg=colours_from_classes(np.where(border_of(hair), 0, parts)),
    )  # fmt: skip
    mean, _ = body.shape(body.zero_identity())
    _, y, z = mean.T
    covered = ((y > 0.1) | ((y > 0) & (z < 0))).float()
    texture = unwrap_head(body, body.zero_identity(), frame, vertices, covered, 1 - covered, 192)
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    middle = vertices.mean(0)
    behind = (vertices - middle) @ turn.T + middle
    drawn, mask = paint(texture, body, behind, CAMERA)
    shown = interpolate(rasterize(behind, body.faces, CAMERA), body.faces, covered[:, None])
    skull, neck = (
        mask & where for where in (shown[..., 0].numpy() > 0.9, shown[..., 0].numpy() < 0.1)
    )
    assert skull.sum() > 500 and neck.sum() > 500
    assert np.quantile(drawn[skull][:, 0], 0.95) < 60
    assert np.quantile(drawn[neck][:, 0], 0.05) > 180


def test_what_is_seen_from_the_side_gives_way_to_its_mirror_image(head):
    """False colours at the far cheek of a turned head do not get into its texture."""
    body, pose, _, _ = head
    camera = CAMERA.resize(3 * SIDE, 3 * SIDE)
    turn = matrix_from_axis_angle(torch.tensor([0.0, 0.6, 0.0]))
    turned = replace(pose, root=axis_angle_from_matrix(turn @ matrix_from_axis_angle(pose.root)))
    vertices, _ = body(body.zero_identity(), turned)
    maps = body_maps(vertices, body.faces, camera)
    normals = vertex_normals(vertices, body.faces)
    facing = -(normals * torch.nn.functional.normalize(vertices, dim=-1)).sum(-1)
    values = torch.stack([facing, body.shape(body.zero_identity())[0][:, 0]], 1)
    shown = interpolate(maps.render, body.faces, values).numpy()
    far = -np.sign(np.median(shown[maps.mask, 1]))
    false = maps.mask & (shown[..., 0] < 0.35) & (shown[..., 1] * far > 0.02)
    image = np.full((3 * SIDE, 3 * SIDE, 3), 200, np.uint8)
    image[false] = (0, 0, 200)
    frame = FrameData(
        image=image, mask=maps.mask, camera=camera, pose=turned, depth=maps.depth,
        normal=maps.normal, seg=colours_from_classes(maps.mask.astype(np.int64)),
    )  # fmt: skip
    texture = unwrap_head(body, body.zero_identity(), frame, vertices, *nowhere(body), 192)
    drawn, mask = paint(texture, body, vertices, camera)
    inner = cv2.erode(false.astype(np.uint8), np.ones((3, 3))) > 0
    assert inner.sum() > 30
    assert np.median(drawn[inner & mask][:, 0]) > 100


def test_what_is_not_seen_is_its_mirror_image(head):
    """Half of the picture determines the texture of a symmetric head."""
    body, pose, vertices, maps = head
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    image[..., 0] = 4 * np.abs(columns - (SIDE - 1) / 2)
    image[..., 1] = 2 * rows
    half = maps.mask & (columns < SIDE / 2)
    frame = FrameData(
        image=image, mask=half, camera=CAMERA, pose=pose, depth=maps.depth, normal=maps.normal,
        seg=colours_from_classes(maps.mask.astype(np.int64)),
    )  # fmt: skip
    texture = unwrap_head(body, body.zero_identity(), frame, vertices, *nowhere(body), 96)
    drawn, mask = paint(texture, body, vertices, CAMERA)
    inner = cv2.erode((mask & maps.mask).astype(np.uint8), np.ones((13, 13))) > 0
    other = inner & (columns > SIDE / 2 + 2)
    error = np.abs(drawn.astype(float) - image)[other]
    assert other.sum() > 300 and np.median(error) < 6
    mean, _ = body.shape(body.zero_identity())
    flipped = mean[twins(body)] * torch.tensor([-1.0, 1, 1])
    assert (flipped - mean).norm(dim=1).median() < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"portrait": "none.jpg", "name": "a"}, "none.jpg: no such portrait; give portrait=PATH"),
        ({"portrait": __file__, "name": "a/b"}, "name=a/b cannot be a folder's name"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        head_folder(OmegaConf.create({"subjects_dir": "x"} | options))


@pytest.mark.slow
def test_a_picture_without_a_face():
    pytest.importorskip("mediapipe")
    with pytest.raises(UserError, match=r"grey: no face found; give a portrait that shows one"):
        FaceFinder()(np.full((200, 200, 3), 120, np.uint8), "grey")
