"""People with exact truth: reads the folders that the photo path is scored against."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.io import read_image, read_json, read_mask
from persona.data.preprocess.fit import Known
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, Camera

REMEDY = "the person is damaged: make or fetch it again"
TOLD = ("pose", "shape", "camera")
"""Parts of the truth that the photo path can be given, to see how much each one costs."""
_POSE = ("root", "body", "jaw", "left_hand", "right_hand", "expression", "trans")


@dataclass(frozen=True)
class TrueView:
    """One picture of the person on white; fields that the folder lacks are None."""

    name: str
    image: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]
    azimuth: int | None = None
    """Degrees from the photo's view; None in another pose."""
    parts: UInt8[ndarray, "h w"] | None = None
    """Goliath-28 classes."""
    pose: BodyPose | None = None
    """In the frame of ``camera``."""
    camera: Camera | None = None
    turn: Float[Tensor, "3 3"] | None = None
    """Rotation from the photo's view, in the frame of its camera."""

    def resized(self, height: int, width: int) -> TrueView:
        """The view on another pixel grid."""
        size = (width, height)
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(self.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        parts = self.parts
        if parts is not None:
            parts = cv2.resize(parts, size, interpolation=cv2.INTER_NEAREST)
        camera = self.camera and self.camera.resize(height, width)
        return replace(self, image=image, mask=soft > 0.5, parts=parts, camera=camera)


@dataclass(frozen=True)
class TruePerson:
    """A photographed person; fields that the folder lacks are None."""

    name: str
    photo: Path
    image: UInt8[ndarray, "h0 w0 3"]
    mask: Bool[ndarray, "h w"]
    """Mask of the photo, perhaps on a coarser pixel grid."""
    views: list[TrueView] = field(default_factory=list)
    poses: list[TrueView] = field(default_factory=list)
    turn_deg: float | None = None
    """About the vertical from facing the camera, positive towards the right of the picture."""
    parts: UInt8[ndarray, "h w"] | None = None
    joints: Float[ndarray, "55 3"] | None = None
    """Metres in the photo camera's frame."""
    betas: Float[ndarray, "s"] | None = None
    camera: Camera | None = None
    """Camera of the pixel grid of ``mask``."""
    pose: BodyPose | None = None
    """In the frame of ``camera``."""

    def known(self, body: SmplxBody, parts: Collection[str]) -> Known:
        """The truth that is given to the photo path.

        Args:
            body: That the path fits.
            parts: Those of ``TOLD`` that the fit is given; may be empty.

        Raises:
            UserError: the folder lacks one, or the body is another one.
        """
        truth = {"pose": self.pose, "shape": self.betas, "camera": self.camera}
        if absent := [part for part in parts if truth[part] is None]:
            raise UserError(f"{self.photo.parent}: no true {', '.join(absent)}; leave truth= out")
        identity = focal_px = None
        if "shape" in parts and self.betas is not None:
            if len(self.betas) != body.num_betas:
                raise UserError(f"{self.photo.parent}: true shape of another body; set body=")
            betas = torch.from_numpy(self.betas).float()
            identity = replace(body.zero_identity(), betas=betas)
        if "camera" in parts and self.camera is not None:
            focal_px = float(self.camera.focal_px.mean()) * len(self.image) / len(self.mask)
        return Known(identity, self.pose if "pose" in parts else None, focal_px)


def people_folders(root: Path) -> list[Path]:
    """The folders of people, by name.

    Raises:
        UserError: there are none.
    """
    found = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise UserError(f"{root}: no folders of people; give people=DIR that holds person_N/")
    return found


def read_person(folder: Path) -> TruePerson:
    """Reads a person's folder.

    Raises:
        UserError: a file that every person needs is missing, or one is damaged.
    """
    truth, meta = _read_npz(folder / "truth.npz"), read_json(folder / "meta.json", REMEDY)
    image = read_image(folder / "photo.jpg", REMEDY)
    views = [_read_view(p) for p in sorted(folder.glob("views/*.png")) if _is_picture(p)]
    poses = [_read_view(p) for p in sorted(folder.glob("poses/*.png")) if _is_picture(p)]
    front = next((v for v in views if v.azimuth == 0), None)
    views = [replace(view, turn=_turn(front, view)) for view in views]
    if "mask" in truth:
        mask = truth["mask"].astype(bool)
    elif front is not None:
        mask = front.mask
    else:
        raise UserError(f"{folder}: neither truth.npz nor views/000.png; {REMEDY}")
    if abs(mask.shape[0] * image.shape[1] / (mask.shape[1] * image.shape[0]) - 1) > 0.01:
        raise UserError(f"{folder}: photo and mask are of different shape; {REMEDY}")
    if not mask.any():
        raise UserError(f"{folder}: the true mask is empty; {REMEDY}")
    turn = meta.get("turn_deg") if isinstance(meta, dict) else None
    return TruePerson(
        folder.name, folder / "photo.jpg", image, mask, views, poses, turn,
        truth.get("parts"), truth.get("joints"), truth.get("betas"),
        _camera(truth, mask.shape), _pose(truth),
    )  # fmt: skip


def trailing_number(name: str) -> str | None:
    """The digits at the end of a name, without leading zeros."""
    found = re.search(r"(\d+)$", name)
    return found and str(int(found[1]))


def folder_of(name: str, root: Path, pattern: str | None) -> Path:
    """The folder below ``root`` that belongs to a person.

    Args:
        name: The person's.
        root: Where to look.
        pattern: Such as ``p{number}`` or ``{name}``; None takes the folder of the person's name,
            else the only one whose name ends with the same number.

    Raises:
        UserError: there is none, or more than one.
    """
    number = trailing_number(name)
    if pattern is not None:
        path = root / pattern.format(name=name, number=number)
    elif (root / name).is_dir():
        path = root / name
    else:
        found = [p for p in root.glob("*") if p.is_dir() and trailing_number(p.name) == number]
        if number is None or len(found) != 1:
            raise UserError(f"{root}: {len(found)} folders fit {name}; give pattern=p{{number}}")
        path = found[0]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder for {name}; make it or give another pattern")
    return path


def _is_picture(path: Path) -> bool:
    return path.stem.isdigit()


def _read_view(path: Path) -> TrueView:
    image = read_image(path, REMEDY)
    mask = read_mask(path.with_name(f"{path.stem}_mask.png"), REMEDY)
    if mask.shape != image.shape[:2]:
        raise UserError(f"{path}: picture and mask are of different size; {REMEDY}")
    truth = _read_npz(path.with_suffix(".npz"))
    around = path.parent.name == "views"
    return TrueView(
        f"{int(path.stem):03d}" if around else f"pose {int(path.stem)}",
        image, mask, int(path.stem) if around else None, truth.get("parts"),
        _pose(truth), _camera(truth, mask.shape),
    )  # fmt: skip


def _turn(front: TrueView | None, view: TrueView) -> Float[Tensor, "3 3"] | None:
    """How the person is turned; about the vertical of the camera where the truth does not say."""
    if front is not None and front.pose is not None and view.pose is not None:
        return matrix_from_axis_angle(view.pose.root) @ matrix_from_axis_angle(front.pose.root).T
    if view.azimuth is None:
        return None
    return matrix_from_axis_angle(torch.tensor([0.0, -math.radians(view.azimuth), 0.0]))


def _read_npz(path: Path) -> dict[str, ndarray]:
    """All arrays of a file, none where there is no file."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # A damaged zip raises one of many kinds.
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); {REMEDY}") from error


def _camera(truth: Mapping[str, ndarray], size: tuple[int, ...]) -> Camera | None:
    if "focal_px" not in truth:
        return None
    focal, center = (torch.from_numpy(truth[k]).float() for k in ("focal_px", "center_px"))
    return Camera.identity(focal, center, *size)


def _pose(truth: Mapping[str, ndarray]) -> BodyPose | None:
    if any(key not in truth for key in _POSE):
        return None
    eyes = {"left_eye": torch.zeros(3), "right_eye": torch.zeros(3)}
    return BodyPose(**{k: torch.from_numpy(truth[k]).float() for k in _POSE}, **eyes)
