"""Fits and textures of several photographs of one person."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rich.progress import Progress

from persona.data.preprocess import photo
from persona.data.preprocess.fit import NOTHING, BodyFit, PhotoFit, photo_camera
from persona.data.preprocess.fit_check import FACE_AWAY
from persona.data.preprocess.fit_doubts import Doubts
from persona.data.preprocess.fit_hands import hand_middle
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.fit_state import LEFT_SHOULDER, initial_state, rest_body_pose
from persona.data.preprocess.fit_terms import CROP_SIDE
from persona.data.preprocess.fit_together import (
    LIMBS,
    agreed_stance,
    believable_heads,
    fit_together,
    head_turn,
    median_stance,
    moved_joints,
    tie,
)
from persona.data.preprocess.fit_upright import SharedVertical
from persona.data.preprocess.several import (
    Sight,
    agreed_parts,
    shared_identity,
    sharpness,
)
from persona.data.preprocess.unwrap import Sums
from persona.errors import UserError
from persona.modules.body.joints import LEFT_HAND
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    sixd_from_matrix,
)
from persona.modules.detect import Detection
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose


def sums(colour, weight):
    """``Sums`` of texels with a weight and a colour each."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    colour = torch.as_tensor(colour, dtype=torch.float32)
    out = Sums.empty(len(weight))
    out.weight.add_(weight)
    out.colour.add_(colour * weight[:, None])
    return out


def test_the_sharper_photograph_is_sharper():
    grain = np.random.default_rng(0).uniform(0, 255, (80, 60, 3)).astype(np.uint8)
    grain = cv2.GaussianBlur(grain, (0, 0), 1)
    mask = np.zeros((80, 60), bool)
    mask[10:70, 10:50] = True
    assert sharpness(grain, mask) > 2 * sharpness(cv2.GaussianBlur(grain, (0, 0), 3), mask)
    assert sharpness(grain, mask & False) > 0


def test_one_shape_nearer_to_the_better_fit(body):
    pose = BodyPose.zero(body.num_expression)
    identity = body.zero_identity()
    tall = replace(identity, betas=identity.betas + 1)
    found = shared_identity([BodyFit(identity, pose, 4.0, 0.015), BodyFit(tall, pose, 1.0, 0.0)])
    torch.testing.assert_close(found.betas, torch.full_like(identity.betas, 0.8))


def test_the_part_of_a_texel_is_what_most_see_well():
    """Two photographs outvote one that wrongly shows hair on a face."""
    face, hair = 2, 1

    def seen(part, weight):
        out = sums(np.full((1, 3), 0.5), [weight])
        out.parts[0, part] = weight
        return out

    photos = [seen(face, 0.6), seen(hair, 0.9), seen(face, 0.8)]
    weights = [photo.weight for photo in photos]
    assert agreed_parts(photos, weights).item() == face
    assert agreed_parts(photos[:2], weights[:2]).item() == hair
    assert agreed_parts(photos[:2], [2 * weights[0], weights[1]]).item() == face


def test_a_limb_that_was_moved_is_let_go_where_it_was():
    errors = [torch.full((133,), 0.01), torch.full((133,), 0.02)]
    errors[1][[7, 9]] = torch.tensor([0.1, 0.3])
    errors[0][[13, 15]] = torch.nan
    moved = moved_joints(errors)
    assert moved.nonzero().tolist() == [[1, joint] for joint in sorted(LIMBS["left arm"][0])]


def test_tied_stances_have_one_gradient():
    stances = [torch.nn.Parameter(torch.zeros(1, 21, 3)) for _ in range(3)]
    for stance, slope in zip(stances, (1.0, 2.0, 6.0), strict=True):
        stance.grad = torch.full((1, 21, 3), slope)
    tie(stances)
    assert [float(stance.grad.mean()) for stance in stances] == [3, 3, 3]


def test_one_odd_photograph_hardly_moves_the_stance():
    stances = torch.zeros(3, 21, 3)
    stances[2] = 1.0
    assert float(median_stance(stances).abs().max()) < 0.1


def test_a_head_turned_backwards_is_that_of_the_other_photograph(body):
    pose = BodyPose.zero(body.num_expression)
    stance = pose.body.clone()
    stance[11, 1], stance[14, 1] = 0.9, 0.8
    looking = replace(pose, body=stance.clone())
    stance[14, 1] = -0.2
    straight = replace(pose, body=stance.clone())
    assert float(head_turn(looking)) == pytest.approx(1.7, abs=1e-4)
    fits = [BodyFit(body.zero_identity(), p, 1.0, 0.01) for p in (straight, looking)]
    (first, second), doubted = believable_heads(fits)
    assert first is fits[0] and doubted == [1]
    torch.testing.assert_close(second.pose.body, straight.body)


def photographed(body, fitter, shown, read, yaw):
    """A photograph (320 x 240) of one pose whose points are read as another's; its own fit.

    Args:
        body: Body model.
        fitter: Knows the name of the reading.
        shown: The pose in the mask.
        read: The pose of the keypoints and of the fit.
        yaw: Turn about the vertical, radians.
    """
    camera, zero = photo_camera(320, 240), body.zero_identity()
    turn = FACING_CAMERA @ matrix_from_axis_angle(torch.tensor([0.0, yaw, 0.0]))
    place = {"root": axis_angle_from_matrix(turn), "trans": torch.tensor([0.0, 0.2, 4.5])}
    vertices, _ = body(zero, replace(shown, **place))
    mask = rasterize(vertices, body.faces, camera).mask.float()
    pose = replace(read, body=read.body.clone(), **place)
    points = camera.project(body.keypoints(*body(zero, pose)))
    detection = Detection(mask, torch.cat((points, torch.ones(133, 1)), -1), torch.zeros(133, 4))
    sight = Sight(Path("a.png"), np.zeros((320, 240, 3), np.uint8), detection, camera, None)
    start = fitter.problem(body, detection, camera, None).starts[0].name
    return sight, BodyFit(zero, pose, 1.0, 0.01, start)


def resting(body):
    """A person at rest, and the same with the left arm raised."""
    rest = BodyPose.zero(body.num_expression)
    rest.body[:] = rest_body_pose()
    raised = replace(rest, body=rest.body.clone())
    raised.body[LEFT_SHOULDER, 2] = 0.8
    return rest, raised


def candidate(body, problem, fit):
    """A fit as the candidate of a photograph's energies."""
    state = initial_state(body, problem.starts[:1], problem.camera)
    state.take(fit.identity, fit.pose)
    state.root.data[:] = sixd_from_matrix(matrix_from_axis_angle(fit.pose.root))
    state.trans.data[:] = fit.pose.trans
    return state


def test_each_limb_begins_where_most_photographs_see_it(body):
    """Two of four see the left arm raised; the others see it in two other places."""
    fitter, (rest, raised) = PhotoFit(), resting(body)
    ahead = replace(rest, body=rest.body.clone())
    ahead.body[LEFT_SHOULDER, 1] = -1.2
    read = (raised, rest, raised, ahead)
    shots = [photographed(body, fitter, pose, pose, 0.2 * k) for k, pose in enumerate(read)]
    problems = [fitter.problem(body, s.detection, s.camera, None) for s, _ in shots]
    states = [candidate(body, p, fit) for p, (_, fit) in zip(problems, shots, strict=True)]
    own = torch.stack([fit.pose.body for _, fit in shots])
    arm = LIMBS["left arm"][0]
    found = agreed_stance(problems, states, own)
    torch.testing.assert_close(found[arm], raised.body[arm])
    others = [joint for joint in range(21) if joint not in arm]
    torch.testing.assert_close(found[others], rest.body[others], atol=0.01, rtol=0)


def test_what_lies_far_off_the_fit_counts_less(body):
    """An arm that is read elsewhere hardly counts; until doubts are lifted again."""
    fitter, (rest, raised) = PhotoFit(), resting(body)
    sight, fit = photographed(body, fitter, rest, raised, 0.0)
    problem = fitter.problem(body, sight.detection, sight.camera, None)
    state = candidate(body, problem, replace(fit, pose=replace(fit.pose, body=rest.body)))
    problem.guess[..., 3] = 0.9
    problem.target[0, 132], problem.keypoint_weights[0, 132] = 1e3, 0  # Not found.
    full, guess = problem.keypoint_weights.clone(), problem.guess.clone()
    doubts = Doubts(problem)
    doubts.weigh(state, torch.inf)
    torch.testing.assert_close(problem.keypoint_weights, full)
    doubts.weigh(state, 0.04)
    share = problem.keypoint_weights[0] / full[0]
    arm, legs = [7, 9, *range(91, 112)], [11, 12, 13, 14, 15, 16]
    assert float(share[arm].max()) < 0.3 and float(share[[9, 100]].max()) == 0
    assert float(share[legs].min()) > 0.95
    assert problem.keypoint_errors(state)[9].isnan(), "not held against the fit"
    assert doubts.faults(state) == ()
    torch.testing.assert_close(problem.guess[0, :100, 3], 0.9 * share[:100])
    assert (problem.guess[0, 132, 3], problem.keypoint_weights[0, 132]) == (guess[0, 132, 3], 0)
    doubts.lift()
    torch.testing.assert_close(problem.keypoint_weights, full)
    torch.testing.assert_close(problem.guess, guess)


def test_a_hand_is_believed_by_the_distance_that_the_fit_closes(body):
    """That of the middle of what is to be seen of it, not of the mean of its joints."""
    fitter, (rest, _) = PhotoFit(), resting(body)
    sight, fit = photographed(body, fitter, rest, rest, 0.0)
    problem = fitter.problem(body, sight.detection, sight.camera, None)
    state, hand = candidate(body, problem, fit), list(LEFT_HAND)
    joints = problem.sparse(state).joints[0, hand].detach()
    middle, mean = (
        problem.crop.points(sight.camera.project(place))[0]
        for place in (hand_middle(joints[None]), joints.mean(0)[None])
    )
    problem.hands = SimpleNamespace(hands=[(hand, middle)])
    Doubts(problem).weigh(state, float((mean - middle).norm()) / (4 * CROP_SIDE))
    assert len(problem.hands.hands) == 1


def test_a_fit_that_most_of_what_is_read_contradicts_is_faulty(body, monkeypatch):
    """Half a metre beside the person all keypoints are doubted, so that no distance tells."""
    # Adam's first steps are whole ones, whatever the slope: both must stay where they are.
    for name, value in (("_ROUNDS", (1, 1, 1)), ("_FREE_STEPS", 1), ("_LR", 1e-4)):
        monkeypatch.setattr(f"persona.data.preprocess.fit_together.{name}", value)
    fitter, (rest, _) = PhotoFit(), resting(body)
    sight, right = photographed(body, fitter, rest, rest, 0.0)
    beside = replace(right.pose, trans=right.pose.trans + torch.tensor([0.5, 0, 0]))
    wrong = replace(right, pose=beside)
    (good,), (bad,) = (fit_together(fitter, body, [sight], [fit]) for fit in (right, wrong))
    assert good.faults == ()
    assert math.isnan(bad.residual)
    joints = [fault for fault in bad.faults if "joints" in fault]
    assert joints == [
        "no joints are left that are believed",
        "100 % of the joints' weight lies far off the body",
    ]


def test_photographs_share_a_vertical_in_every_step(body, monkeypatch):
    """It is told how each person is turned in that step, and is found with the bodies."""
    seen = []

    class Told(SharedVertical):
        def forward(self, roots):
            seen.append((self, torch.stack(list(roots))))
            return self.tilt.sum()

    monkeypatch.setattr("persona.data.preprocess.fit_together.SharedVertical", Told)
    for steps, value in (("_ROUNDS", (1, 1, 1)), ("_FREE_STEPS", 1)):
        monkeypatch.setattr(f"persona.data.preprocess.fit_together.{steps}", value)
    fitter, (rest, _) = PhotoFit(), resting(body)
    shots = [photographed(body, fitter, rest, rest, yaw) for yaw in (0.0, 1.57)]
    sights, fits = (list(part) for part in zip(*shots, strict=True))
    fit_together(fitter, body, sights, fits)
    assert len(seen) == 3
    first, roots = seen[0]
    true = torch.stack([matrix_from_axis_angle(fit.pose.root) for fit in fits])
    torch.testing.assert_close(roots.detach(), true)
    assert roots.requires_grad and all(vertical is first for vertical, _ in seen)
    assert float(first.tilt.detach().max()) < 0, "one vertical for all rounds, which moves"


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_an_arm_that_one_photograph_has_elsewhere(body, moved):
    """Misread, it stays with the others' stance; moved, as the mask shows, it is let go."""
    fitter, (rest, raised) = PhotoFit(), resting(body)
    shots = [photographed(body, fitter, rest, rest, yaw) for yaw in (0.0, 1.57)]
    shots.append(photographed(body, fitter, raised if moved else rest, raised, 3.14))
    sights, fits = (list(side) for side in zip(*shots, strict=True))
    found = [fit.pose.body[LEFT_SHOULDER, 2] for fit in fit_together(fitter, body, sights, fits)]
    assert float(found[0]) == pytest.approx(-1.1, abs=0.25)
    assert float(found[1]) == pytest.approx(float(found[0]), abs=1e-4)
    if moved:
        assert float(found[2]) == pytest.approx(0.8, abs=0.3)
    else:
        assert float(found[2]) == pytest.approx(float(found[0]), abs=1e-4)


@pytest.mark.slow
def test_photographs_fitted_together_agree_on_stance_and_shape(body):
    """A lean towards the camera, which only the side view shows, reaches the front's fit."""
    fitter, (true, _) = PhotoFit(), resting(body)
    true.body[[2, 5], 0] = 0.25
    shots = [photographed(body, fitter, true, true, yaw) for yaw in (0.0, 1.57)]
    sights, fits = (list(side) for side in zip(*shots, strict=True))
    fits[0].pose.body[[2, 5], 0] = 0.0
    front, side = fit_together(fitter, body, sights, fits)
    assert float(front.pose.body[[2, 5], 0].sum()) > 0.3, "0.5 is true, 0.25 the median"
    torch.testing.assert_close(front.identity.betas, side.identity.betas)
    spines = torch.stack([fit.pose.body[[2, 5], 0] for fit in (front, side)])
    assert float((spines[0] - spines[1]).abs().max()) < 0.15, "0.25 before"


def as_read(fitter, body, sights, fits, known):
    """No facing is in doubt."""
    return sights, fits


@pytest.mark.parametrize("faults", [(), ("the joints lie 30 % of the person's size off",)])
def test_a_fit_that_fails_together_leaves_each_by_itself(body, monkeypatch, caplog, faults):
    """If the joint fit has a fault, the separate fits are kept, and the user is told."""
    pose = BodyPose.zero(body.num_expression)
    alone = BodyFit(body.zero_identity(), pose, 2.0, 0.01)
    together = [replace(alone, start="together"), replace(alone, start="together", faults=faults)]

    def jointly(fitter, body, sights, fits, advance):
        advance(photo.STEPS)
        return together

    monkeypatch.setattr(photo, "fit_together", jointly)
    monkeypatch.setattr(photo, "agreed_facings", as_read)

    class Fitter:
        steps = 7

        def __call__(self, body, detection, camera, advance, *arguments):
            advance(self.steps)
            return alone

    preprocessor = photo.PhotoPreprocessor.__new__(photo.PhotoPreprocessor)
    preprocessor.fit, preprocessor.body = Fitter(), body
    image, seen = np.zeros((8, 8, 3), np.uint8), [torch.ones(8, 8), torch.zeros(133, 3)]
    detection, camera = Detection(*seen, torch.zeros(133, 4)), photo_camera(8, 8)
    sights = [Sight(Path(name), image, detection, camera, None) for name in ("a.jpg", "b.jpg")]
    with Progress() as progress:
        used, found, told = preprocessor._fit(sights, progress, Path("me"), NOTHING)
        (task,) = progress.tasks
    assert told == []
    assert task.completed == task.total == (4 if faults else 2) * 7 + photo.STEPS
    assert used == sights
    assert [fit.start for fit in found] == ([""] * 2 if faults else ["together"] * 2)
    assert ("b.jpg would not fit any more" in caplog.text) == bool(faults)


AWAY, OFF = "it is turned away", "the joints lie off"
WITH_FACE = torch.ones(133, 3)


@pytest.fixture
def fitted(body, monkeypatch, tmp_path):
    """Fits photographs, given the names of those that are misread alone and of those together."""
    good = BodyFit(body.zero_identity(), BodyPose.zero(body.num_expression), 2.0, 0.01)
    names = ("a.jpg", "b.jpg", "c.jpg")
    image, camera = np.zeros((8, 8, 3), np.uint8), photo_camera(8, 8)
    sights = [
        Sight(
            Path(name), image, Detection(torch.ones(8, 8), keypoints, torch.zeros(133, 4)), camera,
            None,
        )
        for name, keypoints in zip(names, torch.zeros(3, 133, 3), strict=True)
    ]  # fmt: skip
    read = {id(sight.detection): sight.photo.name for sight in sights}
    preprocessor = photo.PhotoPreprocessor.__new__(photo.PhotoPreprocessor)
    preprocessor.body = body

    def fit(alone, together):
        def jointly(fitter, body, sights, fits, advance):
            advance(photo.STEPS)
            names = [sight.photo.name for sight in sights]
            faulty = together(names)
            return [replace(good, faults=(OFF,) * (name in faulty)) for name in names]

        class Fitter:
            steps = 7

            def __call__(self, body, detection, camera, advance, *arguments):
                advance(self.steps)
                return replace(good, faults=(AWAY,) * (read[id(detection)] in alone))

        monkeypatch.setattr(photo, "fit_together", jointly)
        monkeypatch.setattr(photo, "agreed_facings", as_read)
        preprocessor.fit = Fitter()
        with Progress() as progress:
            used, fits, told = preprocessor._fit(sights, progress, tmp_path / "me", NOTHING)
            (task,) = progress.tasks
        assert task.completed == task.total and len(fits) == len(used)
        assert not any(fit.faults for fit in fits)
        return [sight.photo.name for sight in used], told, task.total

    return fit


@pytest.mark.parametrize(
    ("alone", "together", "left"),
    [
        (["b.jpg"], lambda names: [], {}),
        (["b.jpg"], lambda names: ["b.jpg"], {"b.jpg": OFF}),
        # One that is misread alone pulls another one off.
        (["b.jpg"], lambda names: ["c.jpg"] if "b.jpg" in names else [], {"b.jpg": AWAY}),
        (["b.jpg", "c.jpg"], lambda names: ["b.jpg", "c.jpg"], {"b.jpg": OFF, "c.jpg": OFF}),
    ],
)
def test_a_misread_photograph_is_understood_beside_others_or_left_out(
    fitted, caplog, tmp_path, alone, together, left
):
    """It is left out with a warning, a picture of its fit, and a note for the provenance."""
    used, told, steps = fitted(alone, together)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    assert used == [name for name in names if name not in left]
    assert told == [f"{name} left out: {why}" for name, why in left.items()]
    again = bool(left) and len(used) > 1
    assert steps == 3 * 7 + (1 + again) * photo.STEPS
    for name in names:
        picture = tmp_path / f"me_left_out_{Path(name).stem}.png"
        assert picture.is_file() == (name in left)
        assert (f"left out: {name}: the body does not fit" in caplog.text) == (name in left)
        assert (f"see {picture}); give a photo" in caplog.text) == (name in left)


@pytest.mark.parametrize(
    ("alone", "together", "forgotten"),
    [
        ((FACE_AWAY,), (FACE_AWAY,), True),
        # The person may have looked round, or another thing is wrong: these are left out.
        ((), (FACE_AWAY,), False),
        ((FACE_AWAY,), (FACE_AWAY, OFF), False),
    ],
)
def test_a_face_that_all_else_contradicts_is_forgotten(
    body, monkeypatch, caplog, tmp_path, alone, together, forgotten
):
    """The photograph stays and is read again, once; the others keep their faces."""
    good = BodyFit(body.zero_identity(), BodyPose.zero(body.num_expression), 2.0, 0.01)
    image, camera = np.zeros((8, 8, 3), np.uint8), photo_camera(8, 8)
    found = Detection(torch.ones(8, 8), WITH_FACE, torch.zeros(133, 4))
    front, back = (Sight(Path(name), image, found, camera, None) for name in ("a.jpg", "b.jpg"))

    def jointly(fitter, body, sights, fits, advance):
        advance(photo.STEPS)
        behind = together if sights[-1].detection.has_face else ()
        return [good] + [replace(good, faults=behind)] * (len(sights) - 1)

    class Fitter:
        steps, calls = 7, 0

        def __call__(self, body, detection, camera, advance, *arguments):
            advance(self.steps)
            self.calls += 1
            return replace(good, faults=alone) if self.calls == 2 else good

    monkeypatch.setattr(photo, "fit_together", jointly)
    monkeypatch.setattr(photo, "agreed_facings", as_read)
    preprocessor = photo.PhotoPreprocessor.__new__(photo.PhotoPreprocessor)
    preprocessor.body, preprocessor.fit = body, Fitter()
    with Progress() as progress:
        used, _, told = preprocessor._fit([front, back], progress, tmp_path / "me", NOTHING)
        (task,) = progress.tasks
    assert task.completed == task.total
    assert used[0] is front and front.detection.has_face
    assert (len(used) == 2) == (forgotten or not alone)
    assert ("b.jpg: what was taken for a face is none" in caplog.text) == forgotten
    if forgotten:
        assert not used[1].detection.has_face and not told
        # Hands and limbs are as they were found.
        rest = [k for k in range(133) if k > 90 or 5 <= k < 23]
        torch.testing.assert_close(used[1].detection.keypoints[rest], WITH_FACE[rest])


def test_a_first_photograph_that_is_misread_is_refused_among_several(fitted, tmp_path):
    with pytest.raises(UserError, match=rf"a\.jpg: .*{AWAY}; see .*me_refused\.png"):
        fitted(["a.jpg"], lambda names: [])
    assert (tmp_path / "me_refused.png").is_file()
