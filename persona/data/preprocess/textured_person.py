"""A fitted person with a texture, drawn in any pose: controls of generators, and pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.layout import Textures
from persona.data.palette import classes_from_colours
from persona.data.preprocess.annotate import BodyView, body_keypoints, posed_body, view_body
from persona.data.preprocess.garment_texture import with_strip
from persona.data.preprocess.maps import face_labels
from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.unwrap import UvMesh, sample_image
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Drape
from persona.modules.cloth.garment import undress
from persona.modules.diffusion.base import KEYPOINTS, Controls
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, BodyPose, Camera

WHITE = 255


class Painted(NamedTuple):
    """The textured body over white, and its rays."""

    image: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]
    uv: Float[Tensor, "rows columns 2"]
    """Texture coordinates (v up) of each ray."""
    hit: Bool[ndarray, "rows columns"]
    """Rays that meet the body."""


@dataclass(frozen=True)
class TexturedPerson:
    """Body, shape and complete textures; ``inpaint`` and ``seg_inpaint`` are used.

    A person with a garment has a texture with a strip for it (``Body.dressed``).
    """

    body: SmplxBody
    identity: BodyIdentity
    textures: Textures

    @cached_property
    def worn(self) -> tuple[SmplxBody, BodyIdentity]:
        """The body with the garment that the person may have, and the person for it."""
        return self.body.dressed(self.identity)

    def in_garment(self) -> TexturedPerson:
        """With a skirt that the skin carries taken off it; the same person if there is none."""
        undressed = undress(self.body, self.identity)
        if undressed is None:
            return self
        shown = replace(self, identity=undressed.identity)
        textures = with_strip(self.textures, self.mesh, shown.mesh, undressed.covered)
        return replace(shown, textures=textures)

    def hanging(self, drape: Drape | None, frame: int) -> Float[Tensor, "p 3"] | None:
        """How clothes hang in a frame, metres added to the rest pose; None if they are skinned."""
        return None if drape is None else drape.dense(frame, self.worn[0].num_vertices)

    @cached_property
    def limbs(self) -> Int[Tensor, "p"]:
        """Limb of each vertex."""
        return limb_of_vertices(self.worn[0])

    @cached_property
    def classes(self) -> UInt8[ndarray, "t t"]:
        """Part class of each texel."""
        return classes_from_colours(self.textures.seg_inpaint)

    @property
    def mesh(self) -> UvMesh:
        """The unposed body with its texture layout."""
        return uv_mesh(*self.worn)

    def view(
        self, pose: BodyPose, camera: Camera, offset: Float[Tensor, "p 3"] | None = None
    ) -> BodyView:
        """Renders of the posed body; ``offset`` as of ``hanging``."""
        body, identity = self.worn
        return view_body(body, self.limbs, identity, pose, camera, offset)

    def colour(
        self,
        pose: BodyPose,
        camera: Camera,
        supersample: int = 2,
        offset: Float[Tensor, "p 3"] | None = None,
    ) -> tuple[UInt8[ndarray, "h w 3"], Bool[ndarray, "h w"]]:
        """The textured body over white and its silhouette, of ``supersample`` squared rays."""
        painted = self.painted(pose, camera, supersample, offset)
        return painted.image, painted.mask

    def painted(
        self,
        pose: BodyPose,
        camera: Camera,
        supersample: int = 2,
        offset: Float[Tensor, "p 3"] | None = None,
    ) -> Painted:
        """As ``colour``, with where each ray meets the texture."""
        body, identity = self.worn
        vertices, _ = posed_body(body, identity, pose, offset)
        fine = camera.resize(camera.height * supersample, camera.width * supersample)
        render = rasterize(vertices, body.faces, fine)
        uv = interpolate(render, body.uv_faces, body.uv)
        mask = render.mask.numpy()
        colour = sample_texture(self.textures.inpaint, uv, mask)
        size = (camera.width, camera.height)
        image = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return Painted(image, coverage > 0.5, uv, mask)

    def parts(self, view: BodyView) -> UInt8[ndarray, "h w"]:
        """Class of the texture in each pixel, 0 where no body is."""
        body, _ = self.worn
        uv = interpolate(view.maps.render, body.uv_faces, body.uv)
        return nearest_texel(self.classes, uv) * view.maps.mask

    def bones(self, view: BodyView) -> UInt8[ndarray, "h w"]:
        """Number from 1 of the joint that moves each pixel's surface most, 0 where no body is."""
        body, _ = self.worn
        strongest = body.weights.argmax(-1)
        return (face_labels(view.maps.render, body.faces, strongest) + 1).astype(np.uint8)

    def controls(
        self,
        poses: BodyPose,
        camera: Camera,
        names: frozenset[str],
        drape: Drape | None = None,
    ) -> Controls:
        """All controls of a generator, for the poses of a clip.

        Args:
            poses: In the world of the camera, one a frame.
            camera: One camera.
            names: Which of ``CONTROLS`` to draw, and perhaps ``KEYPOINTS``.
            drape: How clothes hang in them.
        """
        drawn = [
            self._drawn(poses[i], camera, names, self.hanging(drape, i))
            for i in range(len(poses.trans))
        ]
        maps = {name: np.stack([each[name] for each in drawn]) for name in names}
        return Controls(poses, camera, maps, drape)

    def _drawn(
        self,
        pose: BodyPose,
        camera: Camera,
        names: frozenset[str],
        offset: Float[Tensor, "p 3"] | None,
    ) -> dict[str, Shaped[ndarray, "..."]]:
        """The controls of one frame."""
        maps: dict[str, ndarray] = {}
        if names & {"colour", "mask"}:
            maps["colour"], maps["mask"] = self.colour(pose, camera, offset=offset)
        if names - {"colour", "mask"}:
            view = self.view(pose, camera, offset)
            maps["depth"] = view.maps.depth
            maps["normal"] = view.maps.normal.astype(np.float32)
            maps["parts"] = self.parts(view)
            maps["bones"] = self.bones(view)
            maps[KEYPOINTS] = body_keypoints(self.worn[0], view).numpy()
        return {name: maps[name] for name in names}


def uv_mesh(body: SmplxBody, identity: BodyIdentity) -> UvMesh:
    """A person's unposed body with its texture layout."""
    rest, _ = body.shape(identity)
    return UvMesh(rest, body.faces, body.uv, body.uv_faces)


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
