"""Skirts, hair and socks on the naked body, and the hulls from which they are made."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull

from persona.data.palette import PART_INDEX
from persona.data.preprocess.cover import sock_offset
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.hair import curtain, ear_vertices, flat_ears, hair_end
from persona.data.preprocess.parts import PARTS, limb_of_vertices
from persona.data.preprocess.skirt import Skirt, find_skirt, is_worn, leg_vertices, skirt_offset
from persona.modules.body.hull import circle, reach, sphere, support
from persona.modules.body.regions import body_regions
from persona.modules.body.rotation import axis_angle_from_matrix
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose


@pytest.fixture(scope="module")
def limbs(body):
    return limb_of_vertices(body)


@pytest.fixture(scope="module")
def regions(body):
    return body_regions(body)


@pytest.fixture(scope="module")
def rest(body):
    return body.shape(body.zero_identity())[0]


def standing(body, spread_rad=0.1, turn=0.0, offset=0.0):
    """Vertices of a body with its legs apart, 4.5 m in front of the camera."""
    pose = BodyPose.zero(body.num_expression)
    pose.root[:] = axis_angle_from_matrix(FACING_CAMERA)
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        about_y = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float32)
        pose.root[:] = axis_angle_from_matrix(FACING_CAMERA @ about_y)
    pose.body[0, 2], pose.body[1, 2] = spread_rad, -spread_rad
    pose.trans[:] = torch.tensor([0.0, -0.2, 4.5])
    identity = body.zero_identity()
    identity.face_offset[:] = offset
    return body(identity, pose)[0]


def seen(body, vertices):
    return rasterize(vertices, body.faces, photo_camera(400, 300)).mask.numpy()


def find(body, rest, limbs, person):
    joints = body.shape(body.zero_identity())[1]
    posed = standing(body)
    naked = seen(body, posed)
    return find_skirt(
        rest, joints, posed, leg_vertices(limbs), naked, person, photo_camera(400, 300)
    )


def closed_to(body, rest, share):
    """The naked silhouette, with the gap between the legs filled down to a share of its height."""
    posed = standing(body)
    naked = seen(body, posed)
    rows = np.nonzero(naked.any(1))[0]
    knee = int(rows[0] + share * (rows[-1] - rows[0]))
    person = naked.copy()
    for row in range(rows[0], knee):
        columns = np.nonzero(naked[row])[0]
        person[row, columns[0] : columns[-1] + 1] = True
    return person


def test_hull_of_random_points_is_scipys():
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    directions = circle(720)
    hull = ConvexHull(points.numpy())
    rays = circle(50)
    ours = reach(rays, directions, support(points, directions))
    normal, shift = hull.equations[:, :2], hull.equations[:, 2]
    slope = rays.numpy() @ normal.T
    theirs = np.where(slope > 1e-9, -shift / np.where(slope > 1e-9, slope, 1), np.inf).min(-1)
    np.testing.assert_allclose(ours, theirs, rtol=0.01)


def test_sphere_is_even():
    directions = sphere(400)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(400))
    assert directions.mean(0).norm() < 0.01
    nearest = torch.cdist(directions, directions).topk(2, largest=False).values[:, 1]
    assert nearest.min() > 0.1 and nearest.max() < 0.25


def test_no_skirt_on_bare_legs_or_loose_trousers(body, rest, limbs):
    naked = seen(body, standing(body))
    assert find(body, rest, limbs, naked) is None
    assert find(body, rest, limbs, ndimage.binary_dilation(naked)) is None
    assert find(body, rest, limbs, closed_to(body, rest, 0.58)) is None


def test_a_skirt_to_the_shins_is_found_with_its_hem(body, rest, limbs):
    high, low = (find(body, rest, limbs, closed_to(body, rest, s)) for s in (0.8, 0.9))
    assert high is not None and low is not None
    size = float(rest[:, 1].max() - rest[:, 1].min())
    top = float(rest[:, 1].max())
    assert abs((top - high.hem_m) / size - 0.8) < 0.03
    assert abs((top - low.hem_m) / size - 0.9) < 0.03


@pytest.mark.parametrize(
    ("above", "below", "worn"),
    [
        ("Lower_Clothing", "Left_Lower_Leg", True),
        ("Upper_Clothing", "Lower_Clothing", True),  # A long coat over trousers.
        ("Lower_Clothing", "Lower_Clothing", False),  # Trousers, a leg behind the other.
        ("Right_Upper_Leg", "Right_Lower_Leg", False),  # The skirt hangs behind bare legs.
        ("Lower_Clothing", "Background", True),  # A hem at the shoes, or legs that are misfitted.
        ("Background", "Background", True),
    ],
)
def test_a_skirt_is_cloth_that_ends_at_its_hem(rest, limbs, above, below, worn):
    skirt = Skirt(-0.47, -0.95)
    classes = np.where(rest[:, 1] > skirt.hem_m, *(PART_INDEX[name] for name in (above, below)))
    front = rest[:, 2] > 0
    legs = leg_vertices(limbs)
    assert is_worn(skirt, rest, legs, classes.astype(np.uint8), front) is worn
    # What is not seen, or not of a leg, says nothing.
    elsewhere = ~(front & (legs[0] | legs[1])).numpy()
    classes[elsewhere] = PART_INDEX["Lower_Clothing"]
    assert is_worn(skirt, rest, legs, classes.astype(np.uint8), front) is worn
    assert is_worn(skirt, rest, legs, classes.astype(np.uint8), front & False)


def test_few_misread_pixels_change_no_skirt(rest, limbs):
    skirt, legs = Skirt(-0.47, -0.95), leg_vertices(limbs)
    cloth, leg = (PART_INDEX[name] for name in ("Lower_Clothing", "Left_Lower_Leg"))
    misread = torch.rand(len(rest), generator=torch.Generator().manual_seed(0)) < 0.2
    for truth, worn in ((rest[:, 1] > skirt.hem_m, True), (rest[:, 1] > -9, False)):
        classes = np.where(truth ^ misread, cloth, leg).astype(np.uint8)
        assert is_worn(skirt, rest, legs, classes, torch.ones(len(rest), dtype=bool)) is worn


@pytest.mark.parametrize("turn", [0.0, 1.2, np.pi])
def test_a_skirt_is_closed_from_all_sides_and_with_legs_apart(body, rest, limbs, turn):
    skirt = find(body, rest, limbs, closed_to(body, rest, 0.85))
    joints = body.shape(body.zero_identity())[1]
    offset, cloth = skirt_offset(rest, joints, leg_vertices(limbs), skirt)
    assert (offset[~(leg_vertices(limbs)[0] | leg_vertices(limbs)[1])] == 0).all()
    assert cloth.sum() > 300 and offset.norm(dim=-1).max() < 0.4
    for spread in (0.0, 0.15):
        naked = seen(body, standing(body, spread, turn))
        dressed = seen(body, standing(body, spread, turn, offset))
        rows = np.nonzero(naked.any(1))[0]
        part = slice(int(rows[0] + 0.6 * np.ptp(rows)), int(rows[0] + 0.82 * np.ptp(rows)))
        runs = [ndimage.label(row)[1] for row in dressed[part]]
        assert max(runs) == 1, "cloth must be one piece in every row"
        if turn != 1.2 and spread:
            assert max(ndimage.label(row)[1] for row in naked[part]) == 2


def test_ears_lie_at_the_sides_and_are_laid_flat_under_hair(body, rest, regions):
    ears, _ = ear_vertices(rest, body.faces, regions)
    assert 50 < ears.sum() < 1500
    assert (ears & (rest[:, 0] > 0)).any() and (ears & (rest[:, 0] < 0)).any()
    assert not (ears & (regions.face_expr | regions.eye)).float().mean() > 0.1
    everywhere, nowhere = torch.ones_like(ears), torch.zeros_like(ears)
    flat, standing_out = flat_ears(rest, body.faces, regions, nowhere, everywhere)
    assert not standing_out.any()
    wide, narrow = (shape[ears, 0].abs().quantile(0.95) for shape in (rest, rest + flat))
    assert narrow < wide - 0.003
    assert (flat[~regions.face] == 0).all() and flat.norm(dim=-1).max() < 0.06
    kept, standing_out = flat_ears(rest, body.faces, regions, everywhere, everywhere)
    assert (kept == 0).all() and (standing_out == ears).all()


def test_long_hair_falls_around_the_neck_but_not_in_front(body, rest, limbs, regions):
    head, neck = (limbs == PARTS.index(name) for name in ("Face_Neck", "Neck"))
    visible = rest[:, 2] > rest[neck, 2].mean()
    assert hair_end(rest, limbs, head & visible, visible) is None
    shoulder = (limbs == PARTS.index("Torso")) & (rest[:, 1] > rest[neck, 1].min() - 0.05)
    hair = (head | shoulder | (neck & (rest[:, 0].abs() > 0.04))) & visible
    end_m = hair_end(rest, limbs, hair, visible)
    assert end_m is not None and end_m < float(rest[head, 1].min())
    offset, covered = curtain(rest, body.faces, limbs, regions, hair, visible, end_m)
    back = neck & (rest[:, 2] < rest[neck, 2].quantile(0.1))
    assert offset[back].norm(dim=-1).median() > 0.008 and covered[back].float().mean() > 0.9
    assert (offset[back, 2] <= 0).all(), "hair must not move forwards"
    throat = neck & visible & ~hair & (rest[:, 0].abs() < 0.02)
    assert offset[throat].norm(dim=-1).max() < 0.01 and not covered[throat].any()
    assert (offset[~(head | neck)] == 0).all()


def test_socks_close_the_toes_and_bare_feet_stay(body, rest, limbs):
    visible = torch.ones(len(rest), dtype=torch.bool)
    assert (sock_offset(body, rest, limbs, visible, visible) == 0).all()
    offset = sock_offset(body, rest, limbs, ~visible, visible)
    toes = body.weights[:, 10] > 0.3
    assert (offset[toes].norm(dim=-1) > 1e-4).float().mean() > 0.3
    assert offset.norm(dim=-1).max() < 0.05
    hull = ConvexHull(rest[toes].numpy())
    inside = (rest + offset)[toes].numpy() @ hull.equations[:, :3].T + hull.equations[:, 3]
    assert inside.max() < 0.004, "the sock leaves the hull of the toes"
    assert np.quantile(inside.max(-1), 0.05) > -0.01, "the sock is not on the hull"


def flared_to(body, rest, share, flare_m):
    """``closed_to``, with the skirt getting wider from the crotch to its hem."""
    person, camera = closed_to(body, rest, share), photo_camera(400, 300)
    rows = np.nonzero(person.any(1))[0]
    first, last = (int(rows[0] + s * np.ptp(rows)) for s in (0.5, share))
    per_m = float(camera.focal_px[0]) / 4.5
    for row in range(first, last):
        width = flare_m * (row - first) / (last - first) * per_m
        (columns,) = np.nonzero(person[row, 60:-60])  # Columns without the arms.
        person[row, round(60 + columns[0] - width) : round(61 + columns[-1] + width)] = True
    return person


def test_a_skirt_is_as_wide_as_its_outline(body, rest, limbs):
    """A flare of 15 cm at the hem is measured, and the skirt gets it sideways and in depth."""
    joints = body.shape(body.zero_identity())[1]
    straight, flared = (find(body, rest, limbs, flared_to(body, rest, 0.8, m)) for m in (0, 0.15))
    more = flared.flare_m - straight.flare_m
    assert float(more[-6:].mean()) == pytest.approx(0.14, abs=0.02)
    assert float(more[:6].abs().max()) < 0.04 and (more.diff() > -0.01).all()
    assert 0 < flared.hem_m - straight.hem_m < 0.04, (
        "the front of a flared hem is nearer to the camera, so it looks lower"
    )
    size = {}
    for name, skirt in (("straight", straight), ("flared", flared)):
        offset, cloth = skirt_offset(rest, joints, leg_vertices(limbs), skirt)
        low = (rest + offset)[cloth & (rest[:, 1] < skirt.hem_m + 0.06)]
        size[name] = low.amax(0) - low.amin(0)
    wider = size["flared"] - size["straight"]
    assert float(wider[0]) == pytest.approx(0.28, abs=0.06)
    assert 0.15 < float(wider[2]) < 0.34, "loose, as few vertices lie exactly in front"


def test_beside_an_arm_no_outline_is_read(body, rest, limbs):
    person = flared_to(body, rest, 0.8, 0.15)
    joints, posed = body.shape(body.zero_identity())[1], standing(body)
    given = (rest, joints, posed, leg_vertices(limbs), seen(body, posed), person)
    hidden = find_skirt(*given, photo_camera(400, 300), ~person)
    assert hidden is not None and not hidden.flare_m.any()


def test_the_width_of_one_who_strides_is_not_read(body, rest, limbs):
    person, posed = flared_to(body, rest, 0.8, 0.15), standing(body)
    left, right = leg_vertices(limbs)
    posed[left] += torch.tensor([0.0, -0.08, 0.0])
    joints, naked = body.shape(body.zero_identity())[1], seen(body, standing(body))
    strided = find_skirt(rest, joints, posed, (left, right), naked, person, photo_camera(400, 300))
    assert strided is not None and not strided.flare_m.any()
