"""A dataset's recording to a subject folder in PERSONA's layout.

What PERSONA takes from networks (depth, normals, parts, albedo, face patch) comes here from the
posed body and the image, as for a photograph: ``persona.data.preprocess``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from rich.progress import track

from persona.data.io import read_image
from persona.data.layout import CAPTURED, TEST, FrameData, SubjectInfo
from persona.data.native.recording import NativeFrame, Recording
from persona.data.palette import classes_from_colours
from persona.data.preprocess.albedo import remove_shading
from persona.data.preprocess.annotate import (
    BodyView,
    annotate_frame,
    body_keypoints,
    trusted,
    view_body,
)
from persona.data.preprocess.canvas import Canvas, face_patch
from persona.data.preprocess.clip import ClipMaker, reference_of
from persona.data.preprocess.colour_rules import ColourRuleAnnotator
from persona.data.preprocess.cover import Cover
from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.texture_fill import fill_unseen
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.preprocess.unwrap import UvMesh, View, unwrap
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.regions import body_regions
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Annotator
from persona.modules.detect.boxes import mask_bounds
from persona.types import BodyIdentity

log = logging.getLogger(__name__)

ASPECT, MARGIN = 0.75, 1.25
"""Width / height of a crop and its size in boxes of the person, as PERSONA crops."""
MIN_OVERLAP = 0.3
"""IoU of body and mask below which a pose cannot belong to its image."""
MAX_UNWRAPPED = 32
"""More captured frames than this are thinned out evenly for the texture."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shot:
    """A frame cut out around the person, in its camera's own coordinates."""

    data: FrameData
    view: BodyView


class SubjectMaker:
    """Writes a subject folder from a recording."""

    def __init__(
        self,
        body: SmplxBody,
        texture_size: int,
        clips: ClipMaker | None,
        annotators: Sequence[Annotator] = (ColourRuleAnnotator(),),
    ) -> None:
        """Takes how to write it.

        Args:
            body: Body model with texture coordinates.
            texture_size: Side of the textures, texels.
            clips: Makes the ``generated_*`` splits; None leaves them out.
            annotators: See each frame; together they give its parts.
        """
        self.body, self.texture_size, self.clips = body, texture_size, clips
        self.annotators = annotators
        self.limbs = limb_of_vertices(body)

    @torch.no_grad()
    def make(
        self, root: Path, recording: Recording, captured: Sequence[NativeFrame], info: SubjectInfo
    ) -> None:
        """Writes captured, the generated splits if there is a generator, and test.

        Args:
            root: Subject folder; an earlier subject in it is replaced.
            recording: The person, whose test frames are written.
            captured: Frames that the avatar is made from.
            info: What to say of the folder.

        Raises:
            UserError: a frame cannot be read, or its mask does not fit its image or its body.
        """
        writer, identity = SubjectWriter(root, fresh=True), recording.identity
        writer.write_identity(identity)
        views = list(self._write_captured(writer, identity, captured))
        rest, _ = self.body.shape(identity)
        mesh = UvMesh(rest, self.body.faces, self.body.uv, self.body.uv_faces)
        canonical, _, _ = self.body.canonical(identity)
        textures = fill_unseen(
            unwrap(views, mesh, self.texture_size), mesh, canonical, self.limbs,
            body_regions(self.body), Cover.none(len(rest)),
        )  # fmt: skip
        writer.write_textures(CAPTURED, textures)
        if self.clips is not None:
            person, photo = TexturedPerson(self.body, identity, textures), views[0].frame
            self.clips(writer, person, reference_of(photo), photo.camera)
        self._write_test(writer, identity, recording.test)
        writer.finish(info)

    def _write_captured(
        self, writer: SubjectWriter, identity: BodyIdentity, frames: Sequence[NativeFrame]
    ) -> Iterator[View]:
        """Writes crops of one common size and hands out what of them is unwrapped."""
        boxes = common_boxes([read_person(frame) for frame in frames])
        kept = np.linspace(0, len(frames) - 1, min(len(frames), MAX_UNWRAPPED)).round().astype(int)
        for number, frame in enumerate(track(frames, "writing captured", transient=True)):
            shot = self.shoot(frame, identity, boxes[number])
            self._write(writer, CAPTURED, number, frame, self._with_face(shot))
            writer.write_mesh(CAPTURED, number, shot.view.vertices, self.body.faces)
            if number in kept:
                inner = trusted(shot.data.mask, shot.view.maps)
                yield View(replace(shot.data, mask=inner), shot.view.vertices)
        writer.write_split(CAPTURED, range(len(frames)), [frame.label for frame in frames])

    def _write_test(
        self, writer: SubjectWriter, identity: BodyIdentity, frames: Sequence[NativeFrame]
    ) -> None:
        """Writes crops that are scored on their whole images."""
        for number, frame in enumerate(track(frames, "writing test", transient=True)):
            mask = read_person(frame)
            (box,) = common_boxes([mask])
            shot = self.shoot(frame, identity, box)
            self._write(writer, TEST, number, frame, shot.data)
            writer.write_crop(TEST, number, box, mask.shape)
        writer.write_split(TEST, range(len(frames)), [frame.label for frame in frames])

    def _write(
        self,
        writer: SubjectWriter,
        split: str,
        number: int,
        frame: NativeFrame,
        data: FrameData,
    ) -> None:
        """Writes a frame with the camera's true place in the dataset's world."""
        camera = replace(data.camera, cam_from_world=frame.camera.cam_from_world)
        writer.write_frame(split, number, replace(data, camera=camera))

    def shoot(self, frame: NativeFrame, identity: BodyIdentity, box: Box) -> Shot:
        """Cuts a frame out and says what the posed body says of it.

        Raises:
            UserError: the image is of another size than the camera, or the body lies elsewhere.
        """
        x, y, w, h = box
        image, mask = read_image(frame.image), read_person(frame)
        check_image_size(frame, image.shape[:2])
        image, mask = (array[y : y + h, x : x + w] for array in (image, mask))
        camera = frame.camera.local().crop(torch.tensor([x, y, w, h]).float(), h, w)
        view = view_body(self.body, self.limbs, identity, frame.pose, camera)
        overlap = (mask & view.maps.mask).sum() / (mask | view.maps.mask).sum()
        if overlap < MIN_OVERLAP:
            raise UserError(
                f"{frame.image}: the posed body covers the person by an IoU of {overlap:.2f} only; "
                "its SMPL-X parameters belong to another image, camera, body or hand convention"
            )
        log.debug("%s: IoU of body and mask %.2f", frame.label, overlap)
        keypoints = body_keypoints(self.body, view)
        return Shot(annotate_frame(self.annotators, image, mask, keypoints, view), view)

    def _with_face(self, shot: Shot) -> FrameData:
        """Adds what only captured frames have: albedo and, where a face is seen, its patch."""
        data, both = shot.data, shot.data.normal_mask
        assert both is not None and data.keypoints is not None  # ``shoot`` made them.
        seen = Canvas(
            data.image, data.mask.astype(np.float32), data.camera,
            torch.from_numpy(data.keypoints), data.image,
        )  # fmt: skip
        patch, box = face_patch(seen)
        classes = classes_from_colours(data.seg)
        albedo = remove_shading(data.image, data.mask, data.normal, both, classes)
        return replace(data, albedo=albedo, patch=patch, patch_box_px=box)


def read_person(frame: NativeFrame) -> Bool[ndarray, "h w"]:
    """A frame's mask.

    Raises:
        UserError: it shows nobody, or is of another size than the camera's image.
    """
    mask = frame.read_mask()
    check_image_size(frame, mask.shape, "its mask")
    if not mask.any():
        raise UserError(f"{frame.image}: its mask shows nobody; get the data set again")
    return mask


def check_image_size(frame: NativeFrame, size: tuple[int, ...], what: str = "the image") -> None:
    """Refuses what is not of the camera's size."""
    height, width = frame.camera.height, frame.camera.width
    if tuple(size) != (height, width):
        raise UserError(
            f"{frame.image}: {what} is {size[1]} x {size[0]} pixels, the camera {width} x "
            f"{height}; get the data set again"
        )


def common_boxes(masks: Sequence[Bool[ndarray, "h w"]]) -> list[Box]:
    """A box (x, y, w, h) around each person, all of one size and inside their images."""
    height, width = masks[0].shape
    centres, sizes = [], []
    for mask in masks:
        top, bottom, left, right = mask_bounds(mask)
        tall = MARGIN * max(bottom - top, (right - left) / ASPECT)
        centres.append(((left + right) / 2, (top + bottom) / 2))
        sizes.append((tall * ASPECT, tall))
    w, h = (round(max(side)) for side in zip(*sizes, strict=True))
    w, h = min(w, width), min(h, height)

    def corner(centre: float, side: int, limit: int) -> int:
        return int(np.clip(round(centre - side / 2), 0, limit - side))

    return [(corner(x, w, width), corner(y, h, height), w, h) for x, y in centres]
