"""``textured_mesh``: a stand-in for a video diffusion model.

It renders the textured, posed body along driving motions: pixel-aligned with the pose by
construction, and with nothing that the texture and skinning do not hold (no wrinkles that move, no
swinging cloth, no light that changes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.layout import FrameData, Textures
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.data.motion.load import load_motion
from persona.data.palette import classes_from_colours, colours_from_classes
from persona.data.preprocess.maps import body_maps
from persona.data.preprocess.unwrap import sample_image
from persona.data.subject_writer import SubjectWriter
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.mesh import interpolate
from persona.types import BodyIdentity, BodyPose, Camera

WHITE = 255


class TexturedMeshGenerator:
    """Writes one ``generated_k`` split per driving motion.

    Args:
        motions: Files or built-in names (``persona.data.motion``), in order of the splits.
        num_frames: Frames per split, evenly taken from the motion.
        supersample: Renders at this many times the size, for smooth edges.
    """

    name = "textured_mesh (renders of the unwrapped photograph; stand-in for a video model)"

    def __init__(
        self,
        *,
        motions: Sequence[str] = ("turntable", "dance"),
        num_frames: int = 48,
        supersample: int = 2,
    ):
        self.motions, self.num_frames, self.supersample = tuple(motions), num_frames, supersample

    @property
    def steps(self) -> int:
        """Number of frames in all, for a progress bar."""
        return len(self.motions) * self.num_frames

    def check(self, body: SmplxBody) -> None:
        """Reads every driving motion, so that a bad one stops before the long work.

        Raises:
            UserError: A motion is missing or damaged.
        """
        for motion in self.motions:
            load_motion(motion, body)

    def __call__(
        self,
        writer: SubjectWriter,
        body: SmplxBody,
        identity: BodyIdentity,
        textures: Textures,
        camera: Camera,
        advance: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """Renders and writes all splits.

        Args:
            writer: The subject's folder.
            body: Body model.
            identity: The fitted person.
            textures: Complete textures; ``inpaint`` and ``seg_inpaint`` are used.
            camera: The captured frame's camera; its size and focal length are kept, the principal
                point is centred and the person is put where the whole motion is in view.
            advance: Called after each frame.
        """
        for number, motion in enumerate(self.motions):
            split = f"generated_{number}"
            poses, placed = self._place(motion, body, identity, camera)
            for index in range(len(poses.trans)):
                pose = poses[index]
                frame = self.render(body, identity, textures, placed, pose)
                writer.write_frame(split, index, frame)
                advance(1)
            writer.write_split(split, range(len(poses.trans)))
            writer.write_textures(split, textures)

    def _place(
        self, motion: str, body: SmplxBody, identity: BodyIdentity, camera: Camera
    ) -> tuple[BodyPose, Camera]:
        """The motion's poses in front of a camera that sees them all."""
        poses = load_motion(motion, body, identity=identity).pose
        count = min(self.num_frames, len(poses.trans))
        poses = poses[torch.linspace(0, len(poses.trans) - 1, count).round().long()]
        root = body.shape(identity)[1][0]
        poses = place_in_camera(poses, root)
        # Every tenth vertex is enough to frame the motion.
        seen = torch.stack([body(identity, poses[i])[0][::10] for i in range(count)])
        focal = float(camera.focal_px.mean())
        placed, shift = fit_camera(seen, camera.height, camera.width, focal_px=focal, margin=0.06)
        return BodyPose.from_joints(poses.joints, poses.expression, poses.trans + shift), placed

    def render(
        self,
        body: SmplxBody,
        identity: BodyIdentity,
        textures: Textures,
        camera: Camera,
        pose: BodyPose,
    ) -> FrameData:
        """One frame, on white."""
        vertices, _ = body(identity, pose)
        fine = camera.resize(camera.height * self.supersample, camera.width * self.supersample)
        large = body_maps(vertices, body.faces, fine)
        uv = interpolate(large.render, body.uv_faces, body.uv)
        colour = sample_texture(textures.inpaint, uv, large.mask)
        size = (camera.width, camera.height)
        image = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(large.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        maps = body_maps(vertices, body.faces, camera)
        uv = interpolate(maps.render, body.uv_faces, body.uv)
        classes = nearest_texel(classes_from_colours(textures.seg_inpaint), uv) * maps.mask
        return FrameData(
            image=image, mask=coverage > 0.5, camera=camera, pose=pose, depth=maps.depth,
            normal=maps.normal.astype(np.float32), seg=colours_from_classes(classes),
            depth_mask=maps.mask, normal_mask=maps.mask,
        )  # fmt: skip


def sample_texture(
    texture: UInt8[ndarray, "t t 3"], uv: Float[Tensor, "h w 2"], mask: Bool[ndarray, "h w"]
) -> UInt8[ndarray, "h w 3"]:
    """Bilinear texture colours at texture coordinates (v up), white outside the mask."""
    size = texture.shape[0]
    pixels = torch.stack((uv[..., 0], 1 - uv[..., 1]), -1) * size
    values = sample_image(torch.from_numpy(texture).float(), pixels.reshape(-1, 2))
    colour = values.reshape(*mask.shape, 3).round().byte().numpy()
    return np.where(mask[..., None], colour, np.uint8(WHITE))


def nearest_texel(
    texture: UInt8[ndarray, "t t"], uv: Float[Tensor, "h w 2"]
) -> UInt8[ndarray, "h w"]:
    """Texel that holds each texture coordinate (v up)."""
    size = texture.shape[0]
    column = (uv[..., 0] * size).long().clamp(0, size - 1).numpy()
    row = ((1 - uv[..., 1]) * size).long().clamp(0, size - 1).numpy()
    return texture[row, column]
