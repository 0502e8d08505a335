"""PERSE: a head of Gaussians; the code of each edit is computed from a picture and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from persona.data.edit_name import read_edit_name
from persona.data.frames import FrameDataset
from persona.data.layout import CAPTURED
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.base import Body
from persona.modules.head.builder import PerseBuilder
from persona.modules.head.encoders import AttributeEncoder
from persona.modules.head.latent import FeatureCodes
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.head import HeadMethod


class PerseMethod(HeadMethod):
    """Canonical Gaussians in a space that all edits share.

    Source: PERSE, CVPR 2025, arXiv:2412.21206. Its first epoch, on a single edit, is left out.

    Args:
        body: body model of a head.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the person is known.
        encoder: computes features from the picture of an edit and the words for it.
        background: see ``HeadMethod``.
        start: see ``HeadMethod``.
        believed: see ``HeadMethod``.

    Raises:
        UserError: ``avatar`` does not fit the encoder, or has additions apart without ``start``.
    """

    many = True
    builder: PerseBuilder

    def __init__(
        self,
        *,
        body: Body,
        renderer: GaussianRenderer,
        avatar: PerseBuilder,
        encoder: AttributeEncoder,
        background: str = "random",
        start: str | Path | None = None,
        believed: str = "edited",
    ) -> None:
        super().__init__(
            body=body, renderer=renderer, avatar=avatar, background=background, start=start,
            believed=believed,
        )  # fmt: skip
        if avatar.codes == "features" and avatar.features != encoder.size:
            raise UserError(
                f"avatar.features={avatar.features}: the encoder gives {encoder.size}; set that"
            )
        if avatar.lora_apart and start is None:
            raise UserError(
                "avatar.lora_apart=true: there is no trained head whose new edit the additions are "
                "for; set system.method.start=RUN"
            )
        self.encoder = encoder.requires_grad_(False).eval()

    def see_frames(self, subjects: Sequence[Subject], frames: FrameDataset) -> None:
        """Also scales the first codes of an untrained head to the builder's deviation."""
        codes, builder = self.avatar.edits.codes, self.builder
        fresh = self.start is None and not int(self.avatar.steps)
        if fresh and isinstance(codes, FeatureCodes) and builder.spread_codes:
            codes.spread(builder.code_std)
        super().see_frames(subjects, frames)

    def initialise(self, subject: Subject) -> None:
        """Also encodes the first captured picture on white, and the words in the subject's name."""
        super().initialise(subject)
        codes = self.avatar.edits.codes
        if not isinstance(codes, FeatureCodes):
            return
        number = subject.frame_ids(CAPTURED)[0]
        pixels, mask = subject.image(CAPTURED, number), subject.mask(CAPTURED, number)
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        inside = torch.from_numpy(mask).float()
        features = self.encoder(image * inside + 1 - inside, read_edit_name(subject.name).prompt)
        codes.features[self.people.index(subject.name)] = features
