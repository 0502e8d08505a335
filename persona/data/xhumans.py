"""X-Humans: textured scans of 20 people, rendered. Source: Shen et al., arXiv:2303.04805."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from persona.data.checks import image_size
from persona.data.identity import fit_betas
from persona.data.io import read_npy, read_text
from persona.data.native.recording import (
    NativeFrame,
    Recording,
    fit_expression,
    in_camera,
)
from persona.data.native.source import Conversion, NativeSource, Requirement, dataset_folder
from persona.data.parameters import from_flat_hands
from persona.errors import UserError
from persona.modules.body.pickles import read_arrays
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity, BodyPose, Camera

GET_DATA = (
    "apply for X-Humans at skype-line.github.io/projects/X-Avatar (non-commercial licence) and "
    "give the folder that holds its subjects as data.path"
)
GET_RENDER = (
    "X-Humans holds scans: render them with data_process/rendering_RGBD_image.py of "
    "github.com/Skype-line/X-Avatar, one cameras.npz per take beside its image/ and depth/"
)
POSE_KEYS = {
    "global_orient": ("root", (3,)),
    "body_pose": ("body", (21, 3)),
    "jaw_pose": ("jaw", (3,)),
    "leye_pose": ("left_eye", (3,)),
    "reye_pose": ("right_eye", (3,)),
    "left_hand_pose": ("left_hand", (15, 3)),
    "right_hand_pose": ("right_hand", (15, 3)),
    "expression": ("expression", (-1,)),
    "transl": ("trans", (3,)),
}
"""Key of a pickle to the field of BodyPose and its shape; -1 is any length."""


class XHumansSource(NativeSource):
    """Makes a subject folder from one person of X-Humans.

    All train takes may give the input, every frame of the test takes is a test frame. SMPL-X
    parameters (ten betas, ten expression coefficients) are the dataset's, in its world.

    Args:
        path: Folder of the people.
        subject: Such as ``00028``.
        body: Body model; the one of the person's ``gender.txt``.
        conversion: How it becomes a subject; an input frame is called TAKE/FRAME, such as 3/12.
    """

    dataset = "xhumans"
    sequences = ("00028", "00034", "00087")

    def __init__(
        self,
        *,
        path: str | Path | None,
        subject: str | int,
        body: SmplxBody,
        conversion: Conversion,
    ) -> None:
        # An unquoted 00028 may arrive as a number.
        super().__init__(name=str(subject).zfill(5), body=body, conversion=conversion)
        self.folder = dataset_folder(path, GET_DATA) / self.name

    def requirements(self) -> list[Requirement]:
        """The subject's files, and of each take the render and the parameters."""
        paths = [(self.folder / "mean_shape_smplx.npy", GET_DATA)]
        for split in ("train", "test"):
            takes = self._takes(split)
            paths += [] if takes else [(self.folder / split / "Take*", GET_DATA)]
            for take in takes:
                paths += [(take / "SMPLX", GET_DATA)]
                names = ("image", "depth", "cameras.npz")
                paths += [(take / "render" / name, GET_RENDER) for name in names]
        return [Requirement(path, path.exists(), remedy) for path, remedy in paths]

    def files(self) -> Iterable[Path]:
        """Everything of the person that is read."""
        yield self.folder / "mean_shape_smplx.npy"
        for take in (*self._takes("train"), *self._takes("test")):
            yield take / "render/cameras.npz"
            for pattern in ("render/image/*.png", "render/depth/*.tiff", "SMPLX/*.pkl"):
                yield from take.glob(pattern)

    def advice(self) -> str:
        """The parameters are those of the body of the person's gender."""
        path = self.folder / "gender.txt"
        if not path.is_file():
            return ""
        gender = read_text(path, GET_DATA).strip()
        return f"; {gender}: needs body.path=.../SMPLX_{gender.upper()}.npz"

    def read(self) -> Recording:
        """All frames, sorted by take and number."""
        path = self.folder / "mean_shape_smplx.npy"
        betas = read_npy(path, GET_DATA).astype(np.float32).reshape(-1)
        identity = self.body.zero_identity()
        identity = BodyIdentity(
            fit_betas(betas, self.body, path), identity.face_offset, identity.joint_offset
        )
        rest_root = self.body.shape(identity)[1][0]
        parts = [
            [frame for take in self._takes(split) for frame in self._frames(take, split, rest_root)]
            for split in ("train", "test")
        ]
        return Recording(identity, *parts)

    def label(self, input_frame: str) -> str:
        """3/12 is frame 12 of the training take 3."""
        take, _, frame = input_frame.partition("/")
        if not (take.isdigit() and frame.isdigit()):
            return input_frame
        return f"train {int(take)} {int(frame)}"

    def _takes(self, split: str) -> list[Path]:
        """Folders of the takes, by number."""
        takes = [p for p in (self.folder / split).glob("Take*") if p.name[4:].isdigit()]
        return sorted(takes, key=lambda p: int(p.name[4:]))

    def _frames(self, take: Path, split: str, rest_root: Float[Tensor, "3"]) -> list[NativeFrame]:
        """Frames of a take: the k-th camera and parameters belong to the k-th image.

        Raises:
            UserError: there are not equally many, or one is broken.
        """
        images = _numbered(take / "render/image", "color_*.png", GET_RENDER)
        parameters = _numbered(take / "SMPLX", "mesh-f*_smplx.pkl", GET_DATA)
        cameras = self._cameras(take / "render/cameras.npz", list(images.values()))
        _check_pairs(take, images, parameters)
        frames = []
        for (number, image), path, camera in zip(
            images.items(), parameters.values(), cameras, strict=True
        ):
            depth = take / "render/depth" / f"depth_{number:06d}.tiff"
            frames.append(
                NativeFrame(
                    label=f"{split} {take.name[4:]} {number}",
                    image=image,
                    camera=camera,
                    pose=self._pose(path, camera, rest_root),
                    read_mask=partial(_mask, depth),
                )
            )
        return frames

    def _cameras(self, path: Path, images: list[Path]) -> list[Camera]:
        """The cameras of a take, one per image in sorted order."""
        try:
            with np.load(path, allow_pickle=False) as file:
                intrinsic, extrinsic = (
                    torch.from_numpy(file[key].astype(np.float32))
                    for key in ("intrinsic", "extrinsic")
                )
            focal, centre = intrinsic[[0, 1], [0, 1]], intrinsic[:2, 2]
            cam_from_world = extrinsic.reshape(-1, 4, 4)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError, EOFError) as error:
            raise UserError(
                f"{path}: does not hold intrinsic (3 x 3) and extrinsic (n x 4 x 4) ({error}); "
                f"{GET_RENDER}"
            ) from error
        if len(cam_from_world) != len(images):
            raise UserError(
                f"{path}: has {len(cam_from_world)} cameras for {len(images)} images; {GET_RENDER}"
            )
        if not cam_from_world.isfinite().all() or not (focal > 0).all():
            raise UserError(f"{path}: holds an impossible camera; {GET_RENDER}")
        height, width = image_size(images[0])
        return [Camera(matrix, focal, centre, height, width) for matrix in cam_from_world]

    def _pose(self, path: Path, camera: Camera, rest_root: Float[Tensor, "3"]) -> BodyPose:
        """Parameters of one frame, in its camera."""
        arrays = read_arrays(path, GET_DATA)
        fields = {}
        for key, (name, shape) in POSE_KEYS.items():
            fields[name] = torch.from_numpy(_array(arrays, key, shape, path))
        pose = fit_expression(BodyPose(**fields), self.body.num_expression, path)
        if self.conversion.flat_hand_mean:
            pose = from_flat_hands(pose, self.body.hands_mean)
        # The frame's own betas place its root; the identity's are the person's mean.
        betas = fit_betas(_array(arrays, "betas", (-1,), path), self.body, path)
        zero = self.body.zero_identity()
        own = BodyIdentity(betas, zero.face_offset, zero.joint_offset)
        return in_camera(pose, camera.cam_from_world, self.body.shape(own)[1][0], rest_root)


def _numbered(folder: Path, pattern: str, remedy: str) -> dict[int, Path]:
    """Files by the number in their name, in its order."""
    prefix, suffix = pattern.split("*")
    found = {}
    for path in folder.glob(pattern):
        number = path.name.removeprefix(prefix).removesuffix(suffix)
        if not number.isdigit():
            raise UserError(f"{path}: has no frame number in its name; {remedy}")
        found[int(number)] = path
    if not found:
        raise UserError(f"{folder}: has no {pattern}; {remedy}")
    return dict(sorted(found.items()))


def _check_pairs(take: Path, images: dict[int, Path], parameters: dict[int, Path]) -> None:
    """Refuses a take in which a file is missing on one side.

    Images are counted from 1 by the renderer, parameters by the scan: either their numbers agree,
    or both lists are whole and as long.
    """
    if images.keys() == parameters.keys():
        return
    first, last = min(images), max(images)
    if gaps := sorted(set(range(first, last + 1)) - images.keys()):
        missing = take / "render/image" / f"color_{gaps[0]:06d}.png"
        raise UserError(f"{missing}: missing between frames of the take; {GET_RENDER}")
    if len(images) != len(parameters):
        raise UserError(
            f"{take}: has {len(images)} images and {len(parameters)} SMPLX/*.pkl; render it again"
        )


def _array(arrays: dict[str, ndarray], key: str, shape: tuple[int, ...], path: Path) -> ndarray:
    """One array of a pickle as float32 of ``shape``; leading axes of length one do not matter."""
    if key not in arrays:
        raise UserError(f"{path}: has no numbers called {key}; {GET_DATA}")
    try:
        array = np.array(arrays[key], np.float32).reshape(shape)
    except ValueError as error:
        wanted = " x ".join(map(str, shape))
        raise UserError(f"{path}: {key} is not {wanted} ({error}); {GET_DATA}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {key} holds a number that is not finite; {GET_DATA}")
    return array


def _mask(path: Path) -> Bool[ndarray, "h w"]:
    """The person: nearer than the farthest depth, which is the empty background.

    Raises:
        UserError: missing, or not a one-channel image.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {GET_RENDER}")
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2 or not np.isfinite(depth).all():
        raise UserError(f"{path}: broken, or not a depth image; {GET_RENDER}")
    return depth < depth.max()
