"""Part classes, albedo and texture filling, on scenes with known truth."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from persona.data.layout import Textures
from persona.data.palette import PART_INDEX, classes_from_colours, colours_from_classes
from persona.data.preprocess import texture_fill
from persona.data.preprocess.albedo import SHADING_LIMIT, remove_shading
from persona.data.preprocess.colour_rules import classify, skin_mask
from persona.data.preprocess.cover import Cover
from persona.data.preprocess.maps import body_maps, near_occlusion
from persona.data.preprocess.parts import PARTS, agrees, bare_vertices, limb_of_vertices, strays
from persona.data.preprocess.plain_fill import is_print
from persona.data.preprocess.texture_fill import (
    SHOE_COLOUR,
    _islands,
    _trousered,
    fill_unseen,
)
from persona.data.preprocess.unwrap import UvMesh, texels_of
from persona.modules.body.regions import body_regions
from persona.modules.detect import wholebody
from persona.types import Camera

SKIN, SHIRT, TROUSERS, HAIR = (205, 160, 135), (60, 110, 180), (40, 40, 45), (30, 22, 20)
MOLE = (90, 20, 120)


def scene():
    """A person made of rectangles: hair, face, shirt with a low hem, trousers."""
    image = np.full((240, 120, 3), 255, np.uint8)
    limbs = np.full((240, 120), -1)
    bands = (
        ((10, 25), HAIR, "Face_Neck"), ((25, 50), SKIN, "Face_Neck"), ((50, 110), SHIRT, "Torso"),
        ((110, 125), SHIRT, "Left_Upper_Leg"), ((125, 200), TROUSERS, "Left_Upper_Leg"),
        ((200, 230), SKIN, "Left_Lower_Leg"),
    )  # fmt: skip
    for (top, bottom), colour, limb in bands:
        image[top:bottom, 40:80] = colour
        limbs[top:bottom, 40:80] = PARTS.index(limb)
    keypoints = torch.zeros(133, 3)
    angle = torch.linspace(0, 6.28, 68)
    ring = torch.stack((60 + 12 * angle.cos(), 38 + 10 * angle.sin()), -1)
    keypoints[wholebody.FACE] = torch.cat((ring, torch.ones(68, 1)), -1)
    return image, (image != 255).any(-1), limbs, keypoints


def test_classes_follow_limb_and_colour():
    image, mask, limbs, keypoints = scene()
    classes = classify(image, mask, limbs, keypoints)
    middle = {row: classes[row, 60] for row in (15, 38, 80, 117, 160, 215)}
    expected = ("Hair", "Face_Neck", "Upper_Clothing", "Upper_Clothing", "Lower_Clothing")
    names = (*expected, "Left_Lower_Leg")
    assert list(middle.values()) == [PART_INDEX[name] for name in names]
    assert (classes[~mask] == 0).all() and (classes[mask] > 0).all()


def test_skin_has_the_face_colour():
    image, mask, _, keypoints = scene()
    skin = skin_mask(image, mask, keypoints)
    assert skin[38, 60] and skin[215, 60]
    assert not skin[80, 60] and not skin[160, 60]
    assert not skin_mask(image, mask, torch.zeros(133, 3)).any(), (
        "without a face the skin's colour is unknown"
    )


def test_hidden_vertices_are_bare_like_the_seen_one_before_them():
    canonical = torch.tensor([[0.0, 0, 0.1], [0.0, 0, -0.1], [1.0, 0, 0.1], [1.0, 0, -0.1]])
    skin = np.array([True, False, False, False])
    visible = torch.tensor([True, False, True, False])
    torso = torch.full((4,), PARTS.index("Torso"))
    bare = bare_vertices(skin, visible, canonical, torso)
    assert bare.tolist() == [True, True, False, False]


def test_strays_are_the_minority_colour_of_an_arm():
    limbs = np.full((10, 10), PARTS.index("Left_Lower_Arm"))
    limbs[:, 5:] = PARTS.index("Torso")
    skin = np.ones((10, 10), bool)
    skin[0, :] = False
    assert strays(skin, limbs).sum() == 5, "one row of cloth on the arm; the trunk is ignored"
    assert not strays(np.zeros((10, 10), bool), limbs).any(), "skin colour is unknown"
    hand = np.full((10, 10), PARTS.index("Left_Hand"))
    skin[:, 2:] = False
    assert (strays(skin, hand) == ~skin).all(), (
        "on a hand, cloth is the stray even if it is the majority"
    )


def test_a_pixel_counts_where_its_part_fits_the_limb():
    limbs = ["Torso", "Torso", "Torso", "Left_Hand", "Left_Foot", "Left_Foot", "Right_Lower_Leg",
             "Left_Hand"]  # fmt: skip
    parts = ["Upper_Clothing", "Left_Hand", "Apparel", "Right_Hand", "Lower_Clothing",
             "Left_Shoe", "Lower_Clothing", "Upper_Clothing"]  # fmt: skip
    limbs = np.array([[PARTS.index(name) for name in limbs]])
    classes = np.array([[PART_INDEX[name] for name in parts]], np.uint8)
    assert agrees(classes, limbs)[0].tolist() == [
        True, False, False, True, False, True, True, False,
    ]  # fmt: skip
    assert not agrees(classes, np.full_like(limbs, -1)).any(), "without a body no pixel agrees"


def test_feet_out_of_frame_wear_shoes_and_no_trousers(dressed):
    d = dressed
    feet = np.isin(d.limbs.numpy(), [PARTS.index(f"{s}_Foot") for s in ("Left", "Right")])
    near, feet = (test(feet[d.texels.corners.numpy()], -1) for test in (np.any, np.all))
    result, part = d.fill(Cover.none(len(d.limbs)), hidden=near)
    shoes = [PART_INDEX["Left_Shoe"], PART_INDEX["Right_Shoe"]]
    assert np.isin(part[feet], shoes).all()
    assert np.abs(result[feet] - SHOE_COLOUR).max() < 40
    left = feet & (d.place[:, 0] > 0.05)
    assert (part[left] == shoes[0]).all()


def test_every_limb_has_vertices(body):
    assert (torch.bincount(limb_of_vertices(body), minlength=len(PARTS)) > 20).all()


def sphere(size=96):
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid, -grid)
    inside = x**2 + y**2 < 0.81
    z = np.sqrt(np.clip(0.81 - x**2 - y**2, 0, None))
    return np.stack((x, y, z), -1).astype(np.float32) / 0.9 * inside[..., None], inside


def test_shading_of_a_lit_sphere_is_taken_out():
    normal, mask = sphere()
    light = np.clip(0.75 + 0.25 * normal @ np.array([0.6, 0.3, 0.0]), 0.3, 1.4)
    linear = np.where(mask[..., None], 0.4 * light[..., None] * np.array([1, 0.8, 0.6]), 1.0)
    image = (linear ** (1 / 2.2) * 255).round().clip(0, 255).astype(np.uint8)
    classes = np.where(mask, 5, 0).astype(np.uint8)
    albedo = remove_shading(image, mask, normal, mask, classes)

    def spread(picture):
        values = (picture[mask] / 255.0) ** 2.2
        return float((values.std(0) / values.mean(0)).mean())

    assert spread(albedo) < 0.35 * spread(image)
    assert (albedo[~mask] == image[~mask]).all()


def test_two_cloths_keep_their_difference_and_the_change_is_bounded():
    normal, mask = sphere()
    upper = np.arange(96)[:, None] < 48
    image = np.where(upper[..., None], np.uint8(200), np.uint8(60)).repeat(96, 1).repeat(3, 2)
    classes = np.where(mask, np.where(upper, 22, 12), 0).astype(np.uint8)
    albedo = remove_shading(image, mask, normal, mask, classes)
    ratio = (albedo[mask] / 255.0) ** 2.2 / (image[mask] / 255.0) ** 2.2
    assert ratio.max() < SHADING_LIMIT * 1.05 and ratio.min() > 0.95 / SHADING_LIMIT
    assert abs(np.median(albedo[mask & upper]) - 200) < 12
    assert abs(np.median(albedo[mask & ~upper]) - 60) < 12


def test_maps_of_a_square_facing_the_camera():
    corners = torch.tensor([[-1.0, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4]])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    camera = Camera.identity(torch.tensor([40.0, 40.0]), torch.tensor([16.0, 16.0]), 32, 32)
    maps = body_maps(corners, faces, camera)
    assert maps.mask[16, 16] and not maps.mask[0, 0]
    np.testing.assert_allclose(maps.normal[16, 16], [0, 0, 1], atol=1e-5)
    assert abs(maps.depth[16, 16] - 4) < 1e-5 and maps.facing[16, 16] > 0.99


def test_pixels_behind_a_limb_are_not_trusted():
    depth = np.full((40, 40), 4.0, np.float32)
    depth[:, 20:] = 3.8
    bad = near_occlusion(depth, np.ones((40, 40), bool), radius_px=6)
    assert bad[20, 14:20].all() and not bad[20, :13].any()
    assert bad[20, 20:22].all() and not bad[20, 23:].any()


@pytest.fixture(scope="module")
def dressed(body):
    """A textured body of which the front is seen: skin, hair, a shirt with horizontal stripes.

    On the chest the shirt has a red print, and a V-neck shows skin.
    """
    size, identity = 256, body.zero_identity()
    rest, _ = body.shape(identity)
    canonical, _, _ = body.canonical(identity)
    mesh = UvMesh(rest, body.faces, body.uv, body.uv_faces)
    texels, limbs, regions = texels_of(mesh, size), limb_of_vertices(body), body_regions(body)
    place = texels.features(canonical).numpy()
    front = place[:, 2] > np.median(place[:, 2])
    head = texels.features((limbs == 0).float()).numpy() > 0.5
    keypoints = body.keypoints(*body(identity, _zero(body)))
    brow = place[:, 1] > float(keypoints[40:50, 1].min())
    stripe = (np.floor(place[:, 1] / 0.2) % 2 == 0)[:, None]
    colour = np.where(stripe, np.array(SHIRT), np.array(TROUSERS))
    part = np.full(len(place), PART_INDEX["Upper_Clothing"])
    trunk = (limbs[texels.corners[:, 0]] == PARTS.index("Torso")).numpy()
    shoulders = float(keypoints[5:7, 1].mean())
    below = shoulders - place[:, 1]
    printed = trunk & (np.abs(place[:, 0]) < 0.05) & (below > 0.15) & (below < 0.3)
    colour[printed] = (220, 30, 30)
    neckline = trunk & (np.abs(place[:, 0]) < 0.05) & (below < 0.08)
    colour[neckline], part[neckline] = SKIN, PART_INDEX["Face_Neck"]
    colour[head], part[head] = SKIN, PART_INDEX["Face_Neck"]
    colour[head & brow], part[head & brow] = HAIR, PART_INDEX["Hair"]

    image, classes = np.zeros((size**2, 3), np.uint8), np.zeros(size**2, np.uint8)
    seen = np.zeros(size**2, bool)
    index = texels.index.numpy()
    image[index[front]], classes[index[front]] = colour[front], part[front]
    seen[index[front]] = True
    square = image.reshape(size, size, 3)
    known = Textures(
        square, seen.reshape(size, size), square, colours_from_classes(classes.reshape(size, size))
    )

    def fill(cover, hidden=None, mole=None):
        given = known
        if mole is not None:
            marked = image.copy()
            marked[index[mole]] = MOLE
            given = known._replace(inpaint=marked.reshape(size, size, 3))
        if hidden is not None:
            mask = known.mask.reshape(-1).copy()
            mask[index[hidden]] = False
            given = given._replace(mask=mask.reshape(size, size))
        filled = fill_unseen(given, mesh, canonical, limbs, regions, cover)
        maps = (filled.inpaint, classes_from_colours(filled.seg_inpaint)[..., None])
        return (m.reshape(size**2, -1)[index].astype(int) for m in maps)

    face = texels.features((regions.face_expr | regions.eye).float()).numpy() > 0
    return SimpleNamespace(
        fill=fill, texels=texels, place=place, front=front, head=head, face=face, trunk=trunk,
        stripe=stripe, colour=colour, below=below, limbs=limbs, canonical=canonical,
    )  # fmt: skip


def test_fill_keeps_what_is_seen_and_gives_the_head_hair(body, dressed):
    d = dressed
    result, _ = d.fill(Cover.none(len(body.template)))
    kept = (result[d.front] == d.colour[d.front]).all(-1)
    assert kept.mean() > 0.95, "seen texels changed, other than specks"
    back_of_head = d.head & ~d.front & ~d.face & (d.place[:, 2] < -0.02)
    to_hair = np.abs(result[back_of_head] - HAIR).sum(-1)
    assert np.median(to_hair) < 10 and (to_hair < 60).mean() > 0.9, (
        "no face on the back of the head"
    )


def test_a_cheek_that_is_turned_away_has_what_the_other_one_shows(body, dressed):
    d = dressed
    x, y, _ = d.place.T
    level = np.abs(y - (y[d.face].max() - 0.08))
    lips = d.texels.features(body_regions(body).mouth_in.float()).numpy() > 0
    cheek = d.face & d.front & (level < 0.015) & ~lips
    mole = cheek & (x > 0.02) & (x < 0.04)
    result, _ = d.fill(Cover.none(len(body.template)), d.head & d.front & (x < -0.005), mole)
    inner = cheek & (x < -0.024) & (x > -0.036) & (level < 0.01)
    other = cheek & (x < -0.044) & (x > -0.055)
    assert inner.sum() > 10 and other.sum() > 10
    assert np.median(np.abs(result[inner] - MOLE).sum(-1)) < 30
    assert np.median(np.abs(result[other] - SKIN).sum(-1)) < 30


def test_the_back_has_the_stripes_but_not_the_print_nor_the_neckline(body, dressed):
    d = dressed
    result, part = d.fill(Cover.none(len(body.template)))
    # Away from edges of stripes, and from seen texels, whose colours continue.
    back = d.trunk & (d.place[:, 2] < np.median(d.place[:, 2]) - 0.06)
    back &= np.abs(d.place[:, 1] / 0.2 - np.round(d.place[:, 1] / 0.2)) > 0.2
    middle = np.abs(d.place[:, 0]) < 0.05
    lower = back & (d.below > 0.12)
    right = np.linalg.norm(result - np.where(d.stripe, SHIRT, TROUSERS), axis=-1) < 60
    assert right[lower].mean() > 0.85, "the back lacks the stripes"
    printed = lower & middle & (d.below > 0.15) & (d.below < 0.3)
    assert printed.sum() > 50
    red = result[printed][:, 0] - result[printed][:, 1]
    assert (red < 30).mean() > 0.98, "the back has the front's print"
    nape = d.trunk & middle & (d.below < 0.08) & (d.below > 0) & (d.place[:, 2] < -0.05)
    assert nape.sum() > 5
    assert (part[nape, 0] == PART_INDEX["Upper_Clothing"]).mean() > 0.9


def test_cover_makes_skirts_the_cloth_that_is_seen_of_them_and_long_hair_hair(body, dressed):
    d = dressed
    upper_back = (d.limbs == PARTS.index("Torso")) & (d.canonical[:, 2] < -0.05)
    hair = upper_back & (d.canonical[:, 1] > d.canonical[upper_back, 1].quantile(0.8))
    skirt = d.limbs == PARTS.index("Left_Upper_Leg")
    cover = replace(Cover.none(len(skirt)), hair=hair, skirt=skirt)
    result, part = d.fill(cover)
    covered = hair[d.texels.corners].all(-1).numpy() & ~d.front
    assert (part[covered] == PART_INDEX["Hair"]).all()
    assert np.median(np.abs(result[covered] - HAIR).sum(-1)) < 40
    cloth = skirt[d.texels.corners].all(-1).numpy()
    # Seen in front it is the shirt, which hangs that low.
    assert (part[cloth & ~d.front] == PART_INDEX["Upper_Clothing"]).all()


def test_legs_seen_in_cloth_down_to_the_feet_keep_it_below_what_is_taken_for_a_skirt(dressed):
    d = dressed
    kinds = [[PARTS.index(f"{s}_{k}_Leg") for s in ("Left", "Right")] for k in ("Upper", "Lower")]
    upper, lower = (torch.isin(d.limbs, torch.tensor(kind)) for kind in kinds)
    result, part = d.fill(replace(Cover.none(len(d.limbs)), skirt=upper))
    shin = d.front & lower[d.texels.corners].all(-1).numpy()
    assert (result[shin] == d.colour[shin]).all(-1).mean() > 0.95
    assert (part[shin] == PART_INDEX["Upper_Clothing"]).mean() > 0.95


def test_trousers_below_a_skirt_reach_down_and_a_skirt_that_does_not_fit_is_near_its_hem():
    height = np.repeat(np.linspace(-1.2, -0.8, 40), 5)
    upper, lower, skin = (
        PART_INDEX[name] for name in ("Upper_Clothing", "Lower_Clothing", "Left_Lower_Leg")
    )

    def trousered(cloth, reach, skirt, seen=None):
        part = np.where(height > -0.8 - reach, cloth, skin).astype(np.uint8)
        everything = np.ones(200, bool)
        return _trousered(part, everything, everything if seen is None else seen, height, skirt)

    assert trousered(lower, 0.4, lower) and trousered(lower, 0.4, upper)
    assert not trousered(lower, 0.15, lower), "a hem that hangs lower than it was taken for"
    assert trousered(lower, 0.15, upper), "shorts under a long shirt"
    assert not trousered(lower, 0.05, upper)
    assert trousered(skin, 0.4, lower, np.zeros(200, bool)), "nothing is seen of the legs"
    cut_off = height > -0.95
    assert not trousered(lower, 0.4, lower, cut_off), "the photograph ends before the lower half"
    assert trousered(lower, 0.4, upper, cut_off)
    one = np.arange(200) == 199
    assert not trousered(lower, 0.4, lower, one), "a single texel"


def _zero(body):
    from persona.types import BodyPose

    return BodyPose.zero(body.num_expression)


def test_specks_are_islands_and_large_regions_are_not():
    seen = np.zeros((100, 100), bool)
    seen[10:60, 10:60] = True
    seen[80, 80:83] = True
    islands = _islands(seen).reshape(100, 100)
    assert islands[80, 80:83].all() and not islands[12:58, 12:58].any()


def test_stripes_are_a_print_and_a_badge_or_a_shadow_is_not():
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 0.5, (8000, 3)) * (1, 1, 0.02)
    ground = np.array([40.0, 60, 160]) + rng.normal(size=(8000, 3)) * 8
    stripes, badge, shadow = ground.copy(), ground.copy(), np.full((8000, 3), 220.0)
    stripes[place[:, 1] % 0.06 < 0.025] = 230
    badge[np.linalg.norm(place - (0.25, 0.3, 0), axis=1) < 0.06] = 230
    # A gradient from light to dark over the whole garment.
    shadow *= np.linspace(0.3, 1.1, 8000)[np.argsort(np.argsort(place[:, 0]))][:, None]
    assert is_print(stripes, place)
    assert not is_print(ground, place)
    assert not is_print(badge, place)
    assert not is_print(shadow, place)


def test_a_light_garment_that_is_shaded_and_has_a_pocket_is_plain():
    """Folds and a slot of shadow; the same cloth with stripes or checks of its tones is a print."""
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 0.5, (8000, 3)) * (1, 1, 0.02)
    x, y, _ = place.T
    light = 1 - 0.4 * (x / 0.5) ** 2
    light = light * (1 + 0.11 * np.sin(x / 0.009) + 0.11 * np.sin((x + 1.7 * y) / 0.011))
    light[(np.abs(x - 0.15 - 0.3 * y) < 0.006) & (y > 0.1) & (y < 0.25)] *= 0.4
    grain = rng.normal(size=(8000, 3)) * 5
    hoodie = np.array([190.0, 188, 184]) * light[:, None]
    assert not is_print(hoodie + grain, place)
    for printed in (y % 0.08 < 0.04, (x // 0.05 + y // 0.05) % 2 == 0):
        tones = np.where(printed[:, None], hoodie, 0.6 * hoodie)
        assert is_print(tones + grain, place)


def test_what_falls_around_the_legs_is_named_by_what_is_seen_of_it():
    upper, lower = PART_INDEX["Upper_Clothing"], PART_INDEX["Lower_Clothing"]
    assert texture_fill._falling(np.array([upper, upper, lower], np.uint8)) == upper
    assert texture_fill._falling(np.array([upper, lower, lower], np.uint8)) == lower
    assert texture_fill._falling(np.array([], np.uint8)) == lower
