"""The clothes of a photographed person, by the part classes that are seen on the naked fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.annotate import EDGE, view_body
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.clothing import ClothingFit, Photo, dress
from persona.data.preprocess.cover import Cover, sock_offset
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.hair import curtain, flat_ears, hair_end
from persona.data.preprocess.parts import PARTS, bare_vertices, beside_arms, is_bare
from persona.data.preprocess.skirt import find_skirt, is_worn, leg_vertices, skirt_offset
from persona.modules.body.regions import BodyRegions
from persona.modules.body.smplx_body import SmplxBody

log = logging.getLogger(__name__)

_ARMS = [PART_INDEX[name] for name in PART_INDEX if "Arm" in name or "Hand" in name]
"""Classes behind which a skirt's outline is hidden."""


@dataclass(frozen=True)
class Dresser:
    """Adds hair that falls, a skirt, shoes and the girth of clothes to a naked body.

    Attributes:
        body: Body model.
        regions: Its regions.
        limbs: Each vertex's index in ``PARTS``.
        clothing: Fits the girth to the outlines.
    """

    body: SmplxBody
    regions: BodyRegions
    limbs: Int[Tensor, "p"]
    clothing: ClothingFit

    def __call__(
        self, canvas: Canvas, photos: Sequence[Photo], advance: Callable[[int], None]
    ) -> tuple[BodyFit, Cover]:
        """The first photograph's fit, dressed, and what covers the vertices.

        Args:
            canvas: The first photograph, with its classes.
            photos: The outlines of all of them.
            advance: Called with the number of finished clothing steps.
        """
        fit = photos[0].fit
        classes, visible, naked = self._seen_classes(canvas, fit)
        skin = torch.from_numpy(is_bare(classes))
        rest, joints = self.body.shape(fit.identity)
        posed, _ = self.body(fit.identity, fit.pose)
        canonical, _, _ = self.body.canonical(fit.identity)
        bare = bare_vertices(is_bare(classes), visible, canonical, self.limbs)
        # The outline of the face takes in hair beside it.
        bare &= ~(self.regions.face & ~self.regions.face_expr & visible & ~skin)
        legs, skirt, hair = leg_vertices(self.limbs), *torch.zeros(2, len(bare), dtype=torch.bool)
        seen_hair = visible & torch.from_numpy(classes == PART_INDEX["Hair"])
        offset, ears = flat_ears(rest, self.body.faces, self.regions, skin, visible)
        offset = offset + sock_offset(self.body, rest, self.limbs, bare, visible)
        end_m = hair_end(rest, self.limbs, seen_hair, visible)
        if end_m is not None:
            log.info("long hair")
            fall, hair = curtain(
                rest, self.body.faces, self.limbs, self.regions, seen_hair, visible, end_m
            )
            offset = offset + fall
        arms = np.isin(canvas.parts, _ARMS)
        found = find_skirt(rest, joints, posed, legs, naked, canvas.mask, canvas.camera, arms)
        if found is not None and not is_worn(found, rest, legs, classes, visible):
            log.info("between the legs is no background, but no skirt is seen on them")
            found = None
        if found is not None:
            log.info("skirt: hem %.2f m below the crotch", found.top_m - found.hem_m)
            fall, skirt = skirt_offset(rest, joints, legs, found)
            offset = offset + fall
        lying = (seen_hair | hair) & ~self.regions.face & (self.limbs != PARTS.index("Neck"))
        cover = Cover(bare & ~skirt & ~hair & ~(offset != 0).any(-1), skirt, hair, lying, ears)
        begun = [photo._replace(fit=dress(self.body, photo.fit, offset)) for photo in photos]
        return self.clothing(self.body, begun, self.regions, cover, advance), cover

    def _seen_classes(
        self, canvas: Canvas, fit: BodyFit
    ) -> tuple[UInt8[ndarray, "p"], Bool[Tensor, "p"], Bool[ndarray, "h w"]]:
        """Per vertex class and whether it is seen; the mask of the naked body."""
        view = view_body(self.body, self.limbs, fit.identity, fit.pose, canvas.camera)
        vertices, maps = view.vertices, view.maps
        pixels = canvas.camera.project(vertices).long()
        limit = torch.tensor([canvas.camera.width, canvas.camera.height]) - 1
        inside = ((pixels >= 0) & (pixels <= limit)).all(-1)
        column, row = pixels.clamp(min=0).minimum(limit).unbind(-1)
        front = torch.from_numpy(maps.depth)[row, column] + 0.02 > vertices[:, 2]
        beside = beside_arms(view.limbs, round(EDGE * canvas.camera.height))
        front &= ~torch.from_numpy(beside)[row, column]
        return canvas.parts[row, column], inside & front, maps.mask
