"""The depth of the joints, as an annotator estimates it from the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from numpy import ndarray
from torch import Tensor

from persona.data.preprocess.canvas import Canvas, photo_px
from persona.data.preprocess.fit_starts import MIN_SCORE, is_standing
from persona.data.preprocess.fit_terms import CropSpace
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera

_SURE_M = 0.05
"""A joint whose depth may be off by no more than this counts in full."""
_STRAIGHT, _BENT_M = 0.7, 0.15
"""Share of straight limbs among those that look upright; by how much the others are off."""
_LEAN, _LEANS = 0.05, np.linspace(-0.3, 0.3, 61).tolist()
"""How far stances lean before a camera (standard deviation, depth by height); those tried."""
_ANYWHERE_M = 1.0
"""By how much a joint out of sight may be off."""
_BODY = ((5, 16), (6, 17), (7, 18), (8, 19), (9, 20), (10, 21), (11, 1), (12, 2), (13, 4), (14, 5),
         (15, 7), (16, 8), (17, 10), (18, 10), (20, 11), (21, 11))  # fmt: skip
"""COCO-WholeBody points and the joints that lie nearest to them."""
_SIDED = 12
"""The first so many of these are the points of arms and legs, left and right."""
_CLEARLY, _APART = 0.5, 0.02
"""Sides are exchanged if that at least halves the distance to the read joints, and shortens it by
this share of the crop's height, since in profile both sides lie close together."""
_LIMB_APART = 0.06
"""A limb is taken to be where it is read if the detector's two joints of it lie farther off than
this share of the crop's height: then detectors have taken one limb for another, or for something
else (on 50 generated people the reading was off by 0.02 at most in the limbs that this says)."""
_LIMB_SURE_M = 0.15
"""And if both may be off by no more than this."""
_LIMBS = (
    (((7, 18), (9, 20)), range(91, 112)), (((8, 19), (10, 21)), range(112, 133)),
    (((13, 4), (15, 7)), range(17, 20)), (((14, 5), (16, 8)), range(20, 23)),
)  # fmt: skip
"""Points and joints of each limb, and the further points that go with it."""

_LIMB_POINTS = ((1, 11), (2, 12), (4, 13), (5, 14), (7, 15), (8, 16), (10, 15), (11, 16),
                (18, 7), (19, 8), (20, 9), (21, 10))  # fmt: skip
"""Joints of the limbs, and the COCO-WholeBody point that must be seen to believe them."""
_UPPER = [3, 6, 9, 12, 13, 14, 15, 16, 17]
_NECK = 12
_LEG_JOINTS = ((1, 4, 7, 10), (2, 5, 8, 11))
_ARM_JOINTS = ((16, 18, 20), (17, 19, 21))


def believed_joints(seen: Canvas, keypoints: Float[Tensor, "133 3"], body: SmplxBody) -> Canvas:
    """The crop with corrected depths and doubts of its read joints.

    Limbs out of sight are a guess: by how much they are off is set to infinity. Where trunk and
    legs are upright in the picture they are drawn towards a straight stance in depth, by how likely
    that is after the reading: readings bend standing people by a few centimetres (measured on
    people of another generator, benchmarks/results/photo.md), a stride is far more. The stance may
    lean as a whole, as all do before a camera that looks down or up.

    Args:
        seen: The crop with an annotator's maps.
        keypoints: COCO-WholeBody of the photograph (x, y, score).
        body: Body model; its template stands straight.
    """
    read = seen.maps[JOINTS].copy()
    away = np.any(np.abs(read[:, :2] - 0.5) > 0.5, axis=1)
    away |= hidden_joints(keypoints).numpy()
    away[0] = False
    read[away, 3] = np.inf
    if is_standing(keypoints):
        rest = (body.joint_regressor @ body.template)[: len(read)].cpu().numpy()
        read[:, 2] = _straightened(read, rest)
    return replace(seen, maps={**seen.maps, JOINTS: read})


def hidden_joints(keypoints: Float[Tensor, "*t 133 3"]) -> Bool[Tensor, "*t 22"]:
    """Joints of limbs that a detector does not see: what an annotator reads of them is a guess."""
    joints, points = (list(side) for side in zip(*_LIMB_POINTS, strict=True))
    hidden = torch.zeros(*keypoints.shape[:-2], 22, dtype=torch.bool)
    hidden[..., joints] = keypoints[..., points, 2] <= MIN_SCORE
    return hidden


def _straightened(
    read: Float32[ndarray, "22 4"], rest: Float32[ndarray, "22 3"]
) -> Float32[ndarray, "22"]:
    """Depth drawn towards trunk and legs as straight as at rest.

    Arms keep their depth to the trunk, feet theirs to the ankle.
    """
    depth_m, scale_m = read[:, 2] - read[0, 2], read[:, 3].clip(max=_ANYWHERE_M)
    down_m = (
        (read[:, 1] - read[0, 1]) * (rest[0, 1] - rest[_NECK, 1]) / (read[_NECK, 1] - read[0, 1])
    )
    off_m = depth_m + rest[:, 2] * _facing(read, rest)
    limbs = []
    for root, *joints in ((0, _NECK), *(leg[:3] for leg in _LEG_JOINTS)):
        limbs.append((off_m[joints] - off_m[root], down_m[joints] - down_m[root], scale_m[joints]))
    lean = max(_LEANS, key=lambda lean: _plausible(lean, limbs))
    trunk, *legs = ((off - lean * down) * _straight_share(off - lean * down, scale)
                    for off, down, scale in limbs)  # fmt: skip
    out = depth_m.copy()
    out[_UPPER] -= trunk / down_m[_NECK] * down_m[_UPPER]
    for shoulder, *arm in _ARM_JOINTS:
        out[arm] += out[shoulder] - depth_m[shoulder]
    for (_, knee, ankle, toe), bend in zip(_LEG_JOINTS, legs, strict=True):
        out[[knee, ankle, toe]] -= bend[[0, 1, 1]]
    return out + read[0, 2]


def _facing(read: Float32[ndarray, "22 4"], rest: Float32[ndarray, "22 3"]) -> float:
    """Cosine of the body's turn: 1 faces the camera, -1 shows the back; by the line of the hips."""
    left, right = 1, 2
    sine = (read[left, 2] - read[right, 2]) / (rest[left, 0] - rest[right, 0])
    return float(np.copysign(np.sqrt(max(0.0, 1 - sine**2)), read[left, 0] - read[right, 0]))


_Limb = tuple[Float[ndarray, "_"], Float[ndarray, "_"], Float[ndarray, "_"]]
"""For a limb's joints below its root, in metres: how far behind the straight stance they are read,
how far below the root they are, and by how much the reading may be off."""


def _plausible(lean: float, limbs: list[_Limb]) -> float:
    """Logarithm of how likely the stance leans so (depth by height) after the reading."""
    sums = [sum(_likelihoods(off - lean * down, scale)) for off, down, scale in limbs]
    return -0.5 * (lean / _LEAN) ** 2 + float(np.log(sums).sum())


def _straight_share(off_m: Float[ndarray, "n"], scale_m: Float[ndarray, "n"]) -> float:
    """How likely a limb is straight after the reading (Bayes)."""
    straight, bent = _likelihoods(off_m, scale_m)
    return straight / (straight + bent)


def _likelihoods(off_m: Float[ndarray, "n"], scale_m: Float[ndarray, "n"]) -> tuple[float, float]:
    """Likelihoods of a straight and a bent limb, times their shares among upright-looking limbs."""

    def normal(spread_m: Float[ndarray, "n"]) -> float:
        return float(np.prod(np.exp(-0.5 * np.square(off_m / spread_m)) / spread_m))

    return _STRAIGHT * normal(scale_m), (1 - _STRAIGHT) * normal(np.hypot(scale_m, _BENT_M))


class JointDepthTerm:
    """Mean distance of the joints' depth to the one read, surer ones counting more (metres).

    Args:
        joints: See ``persona.modules.detect.annotator.JOINTS``; of one picture, or of each frame.
    """

    def __init__(self, joints: Float32[ndarray, "*t 22 4"]):
        read = torch.from_numpy(joints)
        self.depth_m: Float[Tensor, "*t 22"] = read[..., 2] - read[..., :1, 2]
        self.weight: Float[Tensor, "*t 22"] = sureness(read[..., 3])
        self.weight[..., 0] = 0  # The pelvis is where depth is measured from.

    def __call__(self, joints: Float[Tensor, "b 55 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from its joints in the camera's frame."""
        depth_m = joints[:, : self.depth_m.shape[-1], 2] - joints[:, :1, 2]
        return ((depth_m - self.depth_m).abs() * self.weight).mean(-1)


class JointPlaceTerm:
    """Mean L1 distance of the joints to where they are read in the picture (crop units).

    A detector's points are not the joints of the body: they lie up to 3 cm off, mostly to the same
    side (measured, benchmarks/results/photo.md), and it finds them less surely.

    Args:
        target: Where they are read, crop units; of one picture, or of each frame.
        weight: How much each counts, [0, 1]; 0 where nothing was read.
        place: From points in the camera's frame to crop units.
    """

    def __init__(
        self,
        target: Float[Tensor, "*t 22 2"],
        weight: Float[Tensor, "*t 22"],
        place: Callable[[Tensor], Tensor],
    ):
        self.weight, self.place = weight, place
        # What was not read may be anywhere, also at infinity.
        self.target = torch.where(weight[..., None] > 0, target, 0.0)
        self.known: Float[Tensor, "*t"] = (weight > 0).sum(-1).clamp(min=1)

    @classmethod
    def of_crop(cls, seen: Canvas, camera: Camera, space: CropSpace) -> JointPlaceTerm:
        """Of a photograph.

        Args:
            seen: The person's crop with an annotator's maps; joints out of sight do not count.
            camera: The photograph's camera.
            space: Crop units of the fit.
        """
        read = torch.from_numpy(seen.maps[JOINTS])
        pixels = read[:, :2] * torch.tensor([seen.camera.width, seen.camera.height])
        target = space.points(photo_px(pixels, seen.camera, camera))
        sure = read[:, 3].isfinite().float()
        return cls(target, sure, lambda points: space.points(camera.project(points)))

    def __call__(self, joints: Float[Tensor, "b 55 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from its joints in the camera's frame."""
        points = self.place(joints[:, : self.weight.shape[-1]])
        return ((points - self.target).abs().sum(-1) * self.weight).sum(-1) / self.known


def sureness(spread_m: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """How much a reading counts that may be off by so much, [0, 1]."""
    return (_SURE_M / spread_m).clamp(max=1)


def with_agreed_sides(detection: Detection, seen: Canvas) -> Detection:
    """The detection with the body's left and right exchanged where the annotator clearly does so.

    Detectors that take a front for a back exchange them; the face is found apart from that.

    Args:
        detection: What was found in the photograph.
        seen: The person's crop with an annotator's maps.
    """
    if JOINTS not in seen.maps:
        return detection
    size = torch.tensor([seen.camera.width, seen.camera.height])
    read = torch.from_numpy(seen.maps[JOINTS])[:, :2] * size
    if not are_exchanged(seen.keypoints, read, seen.camera.height):
        return detection
    points = exchanged(detection.keypoints), exchanged(detection.points_m)
    return replace(detection, keypoints=points[0], points_m=points[1])


def are_exchanged(
    keypoints: Float[Tensor, "133 3"], read: Float[Tensor, "22 2"], height: float | int
) -> bool:
    """Whether left and right of the body's points lie clearly the other way round in a reading.

    Args:
        keypoints: COCO-WholeBody (x, y, score), pixels.
        read: Joints in the same picture, pixels.
        height: Of the person or their crop, pixels.
    """
    points, joints = (list(side) for side in zip(*_BODY[:_SIDED], strict=True))
    order = list(wholebody.flip_order())
    sure = (keypoints[points, 2] > MIN_SCORE).float()
    as_found, exchanged = (
        float(
            ((keypoints[side, :2] - read[joints]).norm(dim=-1) * sure).sum() / sure.sum().clamp(1)
        )
        for side in (points, [order[point] for point in points])
    )
    return exchanged <= _CLEARLY * as_found and as_found - exchanged >= _APART * height


def exchanged(points: Float[Tensor, "133 c"]) -> Float[Tensor, "133 c"]:
    """The body's left and right exchanged, and front and back in a 3D guess; twice: as before.

    A front and a back taken for each other differ so. The face is found apart and keeps its points.

    Args:
        points: ``Detection.keypoints`` (c = 3) or ``Detection.points_m`` (c = 4).
    """
    order = list(wholebody.flip_order())
    order[wholebody.FACE] = range(wholebody.FACE.start, wholebody.FACE.stop)
    out = points[order]
    return out * torch.tensor([1.0, 1.0, -1.0, 1.0]) if points.shape[1] == 4 else out


def with_agreed_limbs(detection: Detection, seen: Canvas, camera: Camera) -> Detection:
    """The detection with limbs where the annotator clearly sees them elsewhere.

    Detectors put both arms on the one that is easier to see. A limb's points become those read, and
    the points of its hand or foot are dropped; what the annotator is not sure of stays.

    Args:
        detection: What was found in the photograph.
        seen: The person's crop with an annotator's maps.
        camera: The photograph's.
    """
    if JOINTS not in seen.maps:
        return detection
    size = torch.tensor([seen.camera.width, seen.camera.height])
    read = torch.from_numpy(seen.maps[JOINTS])
    pixels, sure = read[:, :2] * size, read[:, 3] < _LIMB_SURE_M
    places = photo_px(pixels, seen.camera, camera)
    inside = ((places >= 0) & (places < torch.tensor([camera.width, camera.height]))).all(-1)
    keypoints, offsets = detection.keypoints.clone(), detection.offsets
    for pairs, further in _LIMBS:
        points, joints = (list(side) for side in zip(*pairs, strict=True))
        away = (seen.keypoints[points, :2] - pixels[joints]).norm(dim=-1) / seen.camera.height
        found = (keypoints[points, 2] > MIN_SCORE).all()
        believed = (sure & inside)[joints].all()
        if found and believed and (away > _LIMB_APART).all():
            keypoints[points, :2] = places[joints]
            keypoints[list(further), 2] = 0
            # What is read lies at the joints themselves.
            offsets = offsets[~torch.isin(offsets[:, 0].long(), torch.tensor(points))]
    if keypoints.equal(detection.keypoints):
        return detection
    return replace(detection, keypoints=keypoints, offsets=offsets)


def with_read_joints(detection: Detection, seen: Canvas, body: SmplxBody) -> Detection:
    """The detection with the annotator's joints as its 3D guess."""
    read = torch.from_numpy(seen.maps[JOINTS]).clone()
    read[:, :2] *= torch.tensor([seen.camera.width, seen.camera.height])
    return replace(detection, points_m=read_points(read, body))


def read_points(read: Float[Tensor, "22 4"], body: SmplxBody) -> Float[Tensor, "133 4"]:
    """A 3D guess (``Detection.points_m``) from read joints whose x and y are pixels.

    Pixels become metres by the scale at which the limbs are as long as those of the mean body.
    """
    pixels, depth_m = read[:, :2], read[:, 2]
    rest = body.joint_regressor @ body.template
    parents = torch.as_tensor(body.parents)
    limbs = torch.tensor([1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21])
    ends = parents[limbs]
    long_m = (rest[limbs] - rest[ends]).norm(dim=-1)
    across_m = (long_m.square() - (depth_m[limbs] - depth_m[ends]).square()).clamp(min=0)
    across_px = (pixels[limbs] - pixels[ends]).square().sum(-1)
    scale = (across_m.sum() / across_px.sum().clamp(min=1)).sqrt()
    place = torch.cat(((pixels - pixels[0]) * scale, depth_m[:, None]), -1)
    points_m = torch.zeros(wholebody.NUM_KEYPOINTS, 4)
    for point, joint in _BODY:
        points_m[point, :3] = place[joint]
        points_m[point, 3] = _score(read[joint, 3])
    return points_m


def read_keypoints(read: Float[Tensor, "22 4"]) -> Float[Tensor, "133 3"]:
    """COCO-WholeBody (``Detection.keypoints``) from read joints whose x and y are pixels.

    Face and hands have none.
    """
    keypoints = torch.zeros(wholebody.NUM_KEYPOINTS, 3)
    for point, joint in _BODY[:_SIDED]:
        keypoints[point, :2] = read[joint, :2]
        keypoints[point, 2] = _score(read[joint, 3])
    return keypoints


def _score(spread_m: Float[Tensor, ""]) -> float:
    """Score of a joint that may be off by so much; what is known at all counts."""
    sure = float(_SURE_M / spread_m)
    return min(max(sure, 0.31), 1.0) if sure > 0 else 0.0
