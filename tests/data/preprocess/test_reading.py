"""How the annotator's maps change mask and fit."""

import numpy as np
import pytest
import torch

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import person_canvas
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_surface import SurfaceTerm
from persona.data.preprocess.fit_terms import CropSpace
from persona.data.preprocess.matte import refine_mask
from persona.modules.detect import Annotator, Detection
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyPose

HEIGHT, WIDTH = 320, 240


@pytest.fixture(scope="module")
def person(body):
    """Posed vertices, camera, each pixel's place on the template, and a perfect detection."""
    pose = BodyPose.zero(body.num_expression)
    pose.root[0] = torch.pi
    pose.body[15, 2], pose.body[16, 2] = -1.0, 0.7
    pose.trans[:] = torch.tensor([0.0, -0.3, 4.0])
    vertices, joints = body(body.zero_identity(), pose)
    camera = photo_camera(HEIGHT, WIDTH)
    points = camera.project(body.keypoints(vertices, joints))
    render = rasterize(vertices, body.faces, camera)
    detection = Detection(
        render.mask.float(), torch.cat((points, torch.ones(133, 1)), -1), torch.zeros(133, 4)
    )
    surface = interpolate(render, body.faces, body.template).numpy()
    surface[~render.mask.numpy()] = np.nan
    return vertices, camera, surface.astype(np.float32), detection


def term(body, person):
    _, camera, surface, detection = person
    parts = np.where(np.isfinite(surface[..., 0]), 22, 0).astype(np.uint8)
    index = torch.arange(0, body.num_vertices, 4)
    space = CropSpace(detection.keypoints)
    return SurfaceTerm(surface, parts, camera, camera, body.template, index, space), index


def energy(term, vertices):
    return float(term(vertices[None]))


def test_the_true_pose_costs_least(body, person):
    vertices = person[0]
    found, index = term(body, person)
    true = energy(found, vertices[index])
    centre = vertices.mean(0)
    turned = (vertices - centre) * torch.tensor([-1.0, 1.0, -1.0]) + centre
    moved = vertices + torch.tensor([0.05, 0, 0])
    assert true < 0.06 and energy(found, moved[index]) > true + 0.04
    # A body turned around has the same outline, but costs most.
    assert energy(found, turned[index]) > energy(found, moved[index])


def test_a_crop_names_the_same_pixels(body, person):
    vertices, camera, _, detection = person
    box = torch.tensor([20.0, 10.0, 180.0, 240.0])
    cropped = camera.crop(box, 480, 360)
    render = rasterize(vertices, body.faces, cropped)
    inside = interpolate(render, body.faces, body.template).numpy().astype(np.float32)
    inside[~render.mask.numpy()] = np.nan
    parts = np.where(render.mask.numpy(), 22, 0).astype(np.uint8)
    index = torch.arange(0, body.num_vertices, 4)
    space = CropSpace(detection.keypoints)
    found = SurfaceTerm(inside, parts, cropped, camera, body.template, index, space)
    assert energy(found, vertices[index]) < 0.06


def test_hair_and_nothing_say_nothing(body, person):
    vertices, camera, surface, detection = person
    index, space = torch.arange(0, body.num_vertices, 4), CropSpace(detection.keypoints)
    hair = np.where(np.isfinite(surface[..., 0]), 3, 0).astype(np.uint8)
    found = SurfaceTerm(surface, hair, camera, camera, body.template, index, space)
    assert energy(found, vertices[index]) == 0


def test_gradient_reaches_the_vertices(body, person):
    vertices = person[0]
    found, index = term(body, person)
    moved = (vertices[index] + 0.02).requires_grad_()
    found(moved[None]).sum().backward()
    assert moved.grad.isfinite().all() and moved.grad.abs().sum() > 0


class Told(Annotator):
    """Returns a given matte on the crop's grid."""

    provides = frozenset({"alpha", "parts"})

    def __init__(self, image, mask, detection):
        camera = photo_camera(*image.shape[:2])
        told = Detection(detection.mask, detection.keypoints, detection.points_m)
        canvas = person_canvas(np.repeat(mask[..., None], 3, 2), told, camera, 512, 384)
        self.matte = (canvas.image[..., 0] > 127).astype(np.float32)
        self.matte[canvas.image.min(-1) > 254] = 1.0

    def __call__(self, image, alpha, keypoints, prior=None):
        return {"alpha": self.matte, "parts": np.zeros(alpha.shape, np.uint8)}


class Repeats(Annotator):
    """Sees the mask that it is told; told none, all that is not white, if told points, no bag."""

    provides = frozenset({"alpha", "parts"})

    def __call__(self, image, alpha, keypoints, prior=None):
        there = image.min(-1) < 240
        if (keypoints[:, 2] > 0).any():
            there &= (image[..., 0] < 38) | (image[..., 0] > 55)  # The bag's red.
        person = alpha > 0.5 if alpha.any() else there
        parts = np.where(person, PART_INDEX["Upper_Clothing"], 0).astype(np.uint8)
        for part, red in (("Left_Lower_Arm", 200), ("Left_Hand", 210)):
            parts[person & (np.abs(image[..., 0] - float(red)) < 5)] = PART_INDEX[part]
        return {"alpha": person.astype(np.float32), "parts": parts}


def test_a_matte_that_disagrees_grossly_is_believed(person):
    """The detector's mask has a post beside the person; the annotator's has the person alone."""
    _, _, _, detection = person
    true = detection.mask.numpy() > 0.5
    post = detection.mask.clone()
    post[60:260, 10:90] = 1
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    wrong = Detection(post, detection.keypoints, detection.points_m)
    told = Told(image, (true * 255).astype(np.uint8), wrong)
    mended = refine_mask(image, wrong, told).mask.numpy() > 0.5
    assert (mended & true).sum() / (mended | true).sum() > 0.9
    assert (mended[60:260, 10:60] & ~true[60:260, 10:60]).mean() < 0.02


def test_places_that_one_of_the_two_misses_are_settled_and_outlines_are_shared(person):
    """The detector misses a hem, and includes two objects beside the person."""
    _, _, _, detection = person
    true = detection.mask.numpy() > 0.5
    rows, columns = np.nonzero(true)
    hem, beside = np.zeros_like(true), np.zeros_like(true)
    hem[rows.max() - 12 :, columns.min() :] = True
    hem &= true
    left = columns.min() - 20
    beside[150:164, left : left + 12] = True
    doubted = np.roll(beside, 40, axis=0)
    assert not (true & (beside | doubted)).any() and hem.sum() > 50
    found = torch.from_numpy(((true & ~hem) | beside | doubted).astype(np.float32))
    wrong = Detection(found, detection.keypoints, detection.points_m)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    told = Told(image, (true * 254).astype(np.uint8), wrong)
    unsure = Told(image, (doubted * 254).astype(np.uint8), wrong).matte
    beyond = Told(image, np.zeros((HEIGHT, WIDTH), np.uint8), wrong).matte
    told.matte = np.maximum(told.matte, 0.3 * unsure) * (1 - beyond)
    mended = refine_mask(image, wrong, told).mask.numpy() > 0.5
    assert mended[hem].mean() > 0.9
    assert mended[beside].mean() < 0.1
    assert mended[doubted].mean() > 0.9, "kept, as the annotator is unsure there"
    assert (mended & true).sum() / (mended & ~doubted | true).sum() > 0.95


def test_what_was_missed_is_added_where_it_looks_like_the_rest(person):
    """A skirt of the coat's colour, a seat of another; a bag like the coat in one reading alone."""
    _, _, _, detection = person
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    coat, skirt, seat, bag, speck = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(5))
    coat[60:180, 90:140] = True
    coat[180:260, [*range(90, 98), *range(132, 140)]] = True  # Legs
    skirt[180:220, 98:132] = True
    seat[140:200, 140:170] = True
    bag[80:120, 55:80] = True
    speck[230:236, 112:118] = True
    image[coat | skirt | speck], image[seat], image[bag] = (
        (30, 40, 120),
        (60, 160, 150),
        (45, 40, 120),
    )
    found = torch.from_numpy(coat.astype(np.float32))
    wrong = Detection(found, detection.keypoints, detection.points_m)
    mended = refine_mask(image, wrong, Repeats()).mask.numpy() > 0.5
    assert mended[skirt].mean() > 0.95 and mended[coat].mean() > 0.95
    assert not (mended & (seat | bag | speck)).any()
    assert (mended & ~(coat | skirt)).sum() < 0.05 * coat.sum()


def test_a_separate_figure_of_the_same_colours_is_not_added(person):
    """Nor a jacket that lies beside the person."""
    _, _, _, detection = person
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    coat, other, skirt = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(3))
    coat[60:260, 90:140] = True
    skirt[200:240, 140:160] = True
    other[100:220, 170:195] = True
    image[coat | skirt | other] = (30, 40, 120)
    found = torch.from_numpy(coat.astype(np.float32))
    wrong = Detection(found, detection.keypoints, detection.points_m)
    mended = refine_mask(image, wrong, Repeats()).mask.numpy() > 0.5
    assert mended[skirt].mean() > 0.95 and mended[coat].mean() > 0.95
    assert not (mended & other).any()


def test_a_hand_at_the_end_of_an_arm_is_given_back(person):
    """Another one of the same colours, which is nobody's, is not."""
    _, _, _, detection = person
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    coat, arm, hand, alone = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(4))
    coat[60:260, 100:140] = True
    arm[120:132, 140:165] = True
    hand[118:134, 165:180] = True
    alone[200:216, 150:165] = True
    image[coat], image[arm], image[hand | alone] = (30, 40, 120), (200, 150, 120), (210, 158, 128)
    found = torch.from_numpy((coat | arm).astype(np.float32))
    wrong = Detection(found, detection.keypoints, detection.points_m)
    unlike = image.copy()
    unlike[hand] = (210, 40, 200)
    mended, kept = (
        refine_mask(picture, wrong, Repeats()).mask.numpy() > 0.5 for picture in (image, unlike)
    )
    assert mended[hand].mean() > 0.9 and mended[arm].mean() > 0.9
    assert kept[arm].mean() > 0.9 and kept[hand].mean() < 0.2
    assert not mended[alone].any()

    class Soft(Repeats):
        def __call__(self, image, alpha, keypoints, prior=None):
            maps = super().__call__(image, alpha, keypoints)
            missed = (maps["alpha"] > 0.5) & (alpha < 0.5)
            return {**maps, "alpha": np.where(missed, np.float32(0.6), maps["alpha"])}

    soft = refine_mask(image, wrong, Soft()).mask.numpy()
    assert soft[hand].mean() > 0.5 and soft[hand].max() < 0.65, "nothing doubted, nothing hardened"


@pytest.mark.parametrize("much", [True, False], ids=["much is missed", "a rim is missed"])
def test_of_a_hand_of_which_much_is_missed_doubted_skin_is_given_back(person, much):
    """The annotator is sure of the palm (or of a rim), doubts fingers and something grey."""
    _, _, _, detection = person
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    coat, arm, palm, fingers, grey = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(5))
    coat[60:240, 100:140] = True
    arm[120:132, 140:165] = True
    palm[118:134, 165:173] = True
    fingers[118:134, 173:185] = True
    grey[134:142, 165:173] = True
    tones = np.array([(30, 40, 120), (200, 150, 120), (210, 158, 128)])
    image[coat], image[arm], image[palm] = tones
    image[fingers], image[grey] = (209, 158, 110), (190, 200, 200)
    known = coat | arm
    if not much:
        known |= palm
        known[118:134, 172:173] = False

    class Doubts(Repeats):
        def __call__(self, image, alpha, keypoints, prior=None):
            maps = super().__call__(image, alpha, keypoints)
            known = np.linalg.norm(image[..., None, :] - tones, axis=-1).min(-1) < 6
            doubted = (maps["alpha"] > 0.5) & (alpha < 0.5) & ~known
            matte = np.where(doubted, np.float32(0.4), maps["alpha"])
            return {"alpha": matte, "parts": np.where(matte > 0.5, maps["parts"], 0)}

    wrong = Detection(
        torch.from_numpy(known.astype(np.float32)), detection.keypoints, detection.points_m
    )
    mended = refine_mask(image, wrong, Doubts()).mask.numpy() > 0.5
    assert mended[palm].mean() > 0.85 and mended[coat | arm].mean() > 0.9
    assert mended[fingers].mean() > 0.9 if much else mended[fingers].mean() < 0.2
    assert mended[grey].mean() < 0.2


def test_an_empty_matte_changes_nothing(person):
    _, _, _, detection = person
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    told = Told(image, np.zeros((HEIGHT, WIDTH), np.uint8), detection)
    told.matte[:] = 0
    assert refine_mask(image, detection, told).mask.equal(detection.mask)
