"""From a portrait to a subject folder of a head, which a head avatar can be trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.heads.fit import FACING, FittedHead, fit_head
from persona.data.heads.labels import body_classes
from persona.data.heads.person import rest_head
from persona.data.heads.portrait_ears import covered_ears, pressed
from persona.data.heads.portrait_hair import (
    border_of,
    find_hair,
    hair_height,
    outwards,
    stray_hair,
)
from persona.data.heads.portrait_mouth import brightness, paint_mouth, teeth
from persona.data.heads.portrait_texture import paint, unwrap_head
from persona.data.io import read_image, write_png
from persona.data.layout import CAPTURED, FrameData, SubjectInfo, Textures
from persona.data.motion.talk import talking
from persona.data.palette import colours_from_classes
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_camera import exif_focal_px
from persona.data.preprocess.maps import BodyMaps, body_maps
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.detect.face import Face, FaceFinder, person_mask
from persona.modules.head.attributes import LABEL_INDEX
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, BodyPose, Camera

SHEET_FILE = "sheet.png"
FOCAL_SIDES = 3.0
"""Focal length assumed of a photograph, in longer sides."""
AROUND = 3.4
"""Side of the frame, in heights of the face."""
BELOW = 0.35
"""The frame's middle lies so far below the face's, in heights of the face: bust and hair."""
MOST_RESIDUAL = 0.06
"""Largest residual of an accepted fit; see ``FittedHead``."""
GENERATED = "generated_0"


@dataclass(frozen=True)
class Seen:
    """A portrait, cut out around the face."""

    image: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]
    face: Face
    camera: Camera


@dataclass(frozen=True)
class Person:
    """The fitted head in one pose, with its hair."""

    identity: BodyIdentity
    pose: BodyPose
    camera: Camera
    hairy: Float[Tensor, "p"]
    """How much the skin may show hair, [0, 1]."""
    haired: Float[Tensor, "p"]
    """How much hair covers it."""
    vertices: Float[Tensor, "p 3"]
    maps: BodyMaps


@dataclass(frozen=True)
class Reconstruction:
    """The head of a portrait."""

    seen: Seen
    person: Person
    frame: FrameData
    """The portrait as a frame; where the head lies behind something, painted."""
    texture: Textures


class PortraitPreprocessor:
    """Finds the face, fits the head, gives it hair and a texture, and draws it talking.

    Args:
        body: The packaged head.
        side: Side of the frames, pixels.
        steps: Steps of the fit.
        frames: Generated, of a talking head.
        turns: Generated, of a head that turns once.
        texture_size: Texels along each side.
    """

    def __init__(
        self,
        *,
        body: HeadBody,
        side: int = 384,
        steps: int = 40,
        frames: int = 48,
        turns: int = 32,
        texture_size: int = 512,
    ) -> None:
        if not (body.has_landmarks and body.regions):
            raise UserError(f"body {body.name}: has no landmarks; portraits need body=head")
        self.body, self.side, self.steps = body, side, steps
        self.frames, self.turns, self.texture_size = frames, turns, texture_size
        self.find = FaceFinder()

    def run(
        self, portrait: Path, root: Path, advance: Callable[[int], None] = lambda steps: None
    ) -> Subject:
        """Writes the folder; an earlier subject in it is replaced.

        Args:
            portrait: Image of one person whose face is seen.
            root: The folder.
            advance: Called with the number of finished steps of the fit.

        Raises:
            UserError: No face, several, one from the side, or one that the head does not fit.
        """
        made = self.reconstruct(self._look(portrait), str(portrait), advance)
        return self._write(root, portrait, made)

    def reconstruct(
        self, seen: Seen, name: str, advance: Callable[[int], None] = lambda steps: None
    ) -> Reconstruction:
        """The head of a portrait, with its hair and its texture.

        Args:
            seen: The portrait around its face.
            name: For errors.
            advance: Called with the number of finished steps of the fit.

        Raises:
            UserError: The head does not fit.
        """
        fit = fit_head(self.body, [seen.face], seen.camera, self.steps, advance)
        if fit.residual > MOST_RESIDUAL:
            raise UserError(
                f"{name}: the head does not fit the face (landmarks are {fit.residual:.2f} "
                "distances of the eyes off); give a portrait without glasses or hat over the face"
            )
        with torch.no_grad():
            hair = find_hair(seen.image, seen.mask, seen.face)
            person = self._with_hair(fit, seen, hair)
            frame = self._frame(seen.image, seen.mask & person.maps.mask, hair, person)
            on_hair = interpolate(person.maps.render, self.body.faces, person.hairy[:, None])
            stray = stray_hair(hair, (on_hair[..., 0] < 0.5).numpy(), seen.face)
            labels = np.where(border_of(hair), LABEL_INDEX["background"], frame.others["labels"])
            parts = colours_from_classes(body_classes(labels))
            clean = replace(frame, mask=frame.mask & ~stray, seg=parts)
            texture = unwrap_head(
                self.body,
                person.identity,
                clean,
                person.vertices,
                person.haired,
                1 - person.hairy,
                self.texture_size,
            )
            texture = paint_mouth(texture, self.body, brightness(seen.image, seen.face))
            # What is hidden behind it is painted, as in the generated frames.
            same, mask = paint(texture, self.body, person.vertices, seen.camera)
            image = np.where(clean.mask[..., None], seen.image, same)
            frame = self._frame(image, mask | clean.mask, hair & clean.mask, person)
        return Reconstruction(seen, person, frame, texture)

    def _look(self, portrait: Path) -> Seen:
        """The square around the face."""
        image = read_image(portrait)
        found = self.find(image, str(portrait))
        points = found.points
        height = float((points[8] - points[[19, 24]].mean(0)).norm())
        side = AROUND * height
        x, y = (points.mean(0) - side / 2).tolist()
        box = torch.tensor([x, y + BELOW * height, side, side])
        height_px, width_px = image.shape[:2]
        focal = exif_focal_px(portrait, height_px, width_px)
        focal = focal or FOCAL_SIDES * max(height_px, width_px)
        camera = photo_camera(height_px, width_px, focal).crop(box, self.side, self.side)
        scale = self.side / side
        right, down = (float(-corner * scale) for corner in box[:2])
        move = np.array([[scale, 0, right], [0, scale, down]], np.float32)
        size = (self.side, self.side)
        cut = cv2.warpAffine(
            image, move, size, flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        inside = cv2.warpAffine(np.ones(image.shape[:2], np.uint8), move, size)
        face = Face(*((p - box[:2]) * scale for p in (points, found.irises)))
        return Seen(cut, (person_mask(cut) > 0.5) & (inside > 0), face, camera)

    def _with_hair(self, fit: FittedHead, seen: Seen, hair: Bool[ndarray, "h w"]) -> Person:
        """The fitted head with the hair's height on it."""
        vertices, _ = self.body(fit.identity, fit.poses[0])
        head = rest_head(self.body, fit.identity)
        render = rasterize(vertices, self.body.faces, seen.camera)
        covered = covered_ears(head, render, hair, seen.mask)
        flat = pressed(head.rest, head.faces, covered)
        moved_in = torch.from_numpy(flat - head.rest).float()
        head = replace(head, rest=flat, ear=np.where(covered, 0.0, head.ear))
        earless = replace(fit.identity, face_offset=fit.identity.face_offset + moved_in)
        vertices, _ = self.body(earless, fit.poses[0])
        haired, height = hair_height(head, vertices, hair, seen.face, seen.camera)
        rest = torch.from_numpy(flat).float()
        offset = earless.face_offset + height[:, None] * outwards(rest) + teeth(self.body)
        grown = replace(fit.identity, face_offset=offset)
        # Neither hair nor teeth affect the joints.
        moved = self.body.shape(fit.identity)[1] - self.body.shape(grown)[1]
        identity = replace(grown, joint_offset=grown.joint_offset + moved)
        brow = float(head.points[[19, 24], 1].mean())
        hairy = torch.where(rest[:, 1] > brow, 1.0, haired)
        return self._posed(identity, fit.poses[0], seen.camera, hairy, haired)

    def _posed(
        self,
        identity: BodyIdentity,
        pose: BodyPose,
        camera: Camera,
        hairy: Float[Tensor, "p"],
        haired: Float[Tensor, "p"],
    ) -> Person:
        vertices, _ = self.body(identity, pose)
        maps = body_maps(vertices, self.body.faces, camera)
        return Person(identity, pose, camera, hairy, haired, vertices, maps)

    def _write(self, root: Path, portrait: Path, made: Reconstruction) -> Subject:
        seen, person, frame, texture = made.seen, made.person, made.frame, made.texture
        writer = SubjectWriter(root, fresh=True)
        writer.write_identity(person.identity)
        writer.write_frame(CAPTURED, 0, frame)
        writer.write_split(CAPTURED, [0])
        writer.write_textures(CAPTURED, texture)
        clip = self._clip(person.pose)
        images = []
        for number in range(len(clip.root)):
            shown = self._posed(
                person.identity, clip[number], seen.camera, person.hairy, person.haired
            )
            image, mask = paint(texture, self.body, shown.vertices, seen.camera)
            drawn = self._frame(image, mask, np.zeros_like(mask), shown)
            writer.write_frame(GENERATED, number, drawn)
            images.append(image)
        writer.write_split(GENERATED, range(len(images)))
        writer.write_textures(GENERATED, texture)
        same, _ = paint(texture, self.body, person.vertices, seen.camera)
        cut = np.where(frame.mask[..., None], frame.image, 255).astype(np.uint8)
        tiles = [seen.image, cut, same, *images[:: max(1, len(images) // 4)]]
        write_png(root / SHEET_FILE, np.hstack(tiles))
        writer.finish(
            SubjectInfo(
                body=self.body.name, body_digest=self.body.digest,
                provenance=f"portrait {portrait.name}; landmarks and mask by MediaPipe; head "
                "fitted to landmarks; hair by colour and outline; unseen texture mirrored or "
                "spread from what is seen",
                generator="textured head",
            )
        )  # fmt: skip
        return Subject(root)

    def _frame(
        self,
        image: UInt8[ndarray, "h w 3"],
        mask: Bool[ndarray, "h w"],
        hair: Bool[ndarray, "h w"],
        person: Person,
    ) -> FrameData:
        labels = np.where(hair, LABEL_INDEX["hair"], LABEL_INDEX["skin"]) * mask
        maps = person.maps
        return FrameData(
            image=image, mask=mask, camera=person.camera, pose=person.pose, depth=maps.depth,
            normal=maps.normal.astype(np.float32),
            seg=colours_from_classes(body_classes(labels)), depth_mask=maps.mask,
            normal_mask=maps.mask, seg_mask=mask, others={"labels": labels.astype(np.uint8)},
        )  # fmt: skip

    def _clip(self, pose: BodyPose) -> BodyPose:
        """A talking head where the fitted one is, then one that turns once."""
        clip = talking(self.body, self.frames)
        yaw = torch.linspace(0, 2 * torch.pi, self.turns + 1)[: self.turns]
        turned = BodyPose.zero(self.body.num_expression, (self.turns,))
        turned.root[:, 1] = yaw
        poses = [_facing(part, pose.trans) for part in (clip, turned)]
        return BodyPose.from_joints(
            torch.cat([p.joints for p in poses]), torch.cat([p.expression for p in poses]),
            torch.cat([p.trans for p in poses]),
        )  # fmt: skip


def _facing(clip: BodyPose, trans: Float[Tensor, "3"]) -> BodyPose:
    """A clip of the rest frame (y up) at a place before the camera."""
    towards = matrix_from_axis_angle(torch.tensor(FACING))
    root = axis_angle_from_matrix(towards @ matrix_from_axis_angle(clip.root))
    return replace(clip, root=root, trans=trans.expand(len(root), 3).clone())
