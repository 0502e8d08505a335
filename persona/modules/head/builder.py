"""How heads of PointAvatar, PEGASUS and PERSE are built from configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError, check_choice
from persona.modules.body.base import Body
from persona.modules.body.flame_file import NUM_JOINTS
from persona.modules.density.canonical_points import SHRINK
from persona.modules.head.attributes import (
    PEGASUS_CATEGORIES,
    PEGASUS_SOURCE,
    PERSE_CATEGORIES,
    PERSE_SOURCE,
)
from persona.modules.head.avatar import HeadAvatar, sphere
from persona.modules.head.canonical import (
    OCTAVES,
    GaussianNetwork,
    PoseNetwork,
    ShadingNetwork,
    SurfaceNetwork,
)
from persona.modules.head.deformer import Deformer
from persona.modules.head.edits import Edits
from persona.modules.head.latent import (
    CodeNetwork,
    FeatureCodes,
    Slots,
    TableCodes,
)
from persona.modules.head.looks import GaussianLook, SurfaceLook
from persona.modules.head.lora import CODE_LORA, DEFORMER_LORA, GAUSSIAN_LORA, attach_lora
from persona.modules.head.template import HeadTemplate
from persona.types import BodyIdentity

STARTS = ("template", "sphere")


@dataclass(frozen=True, kw_only=True)
class HeadBuilder:
    """Settings that all heads share.

    Attributes:
        rates: Adam's, by the names of the avatar's parameters and modules.
        start: where the first points lie: ``template``, vertices of the body model with its mouth
            open, as the papers say, or ``sphere``, as their code does.
        start_points: how many there are.
        around_points: how many more there are of each edit, around the model and inside the
            outlines of the edit's pictures; see ``points_in_outlines``.
        around: thickness of the layer in which they lie, in the networks' unit.
        outline_steps: before training, so many steps teach a head of Gaussians which points each
            edit has; see ``learn_outlines``.
        outline_colors: weight of their colours in these steps; 0 leaves them grey.
        radius: of a point if there were 100 of them; smaller where there are more.
        epoch_steps: steps that make an epoch.
        shape_cancel: whether the warp adds each edit's shape by the body model's basis, so that
            codes need not learn it; else all have the person's (an ablation).
        deformer_width: of the deformer's layers.
        width: of the canonical networks' layers.
        octaves: of the positions that they see: each doubles the finest detail.
        detail_start: first weights that the canonical networks give to encoded positions and codes,
            as a share of those of positions: 0, as published, lets both in slowly.
        own: whether points have values of their own as well, see ``HeadAvatar``.
        model_bases: whether points move as the body model does from the start, see ``HeadAvatar``;
            the papers' learn it from nothing.
    """

    rates: Mapping[str, float]
    start: str = "template"
    start_points: int = 400
    around_points: int = 0
    around: float = 0.4
    outline_steps: int = 0
    outline_colors: float = 0.0
    radius: float = 0.3
    epoch_steps: int = 1000
    shape_cancel: bool = True
    deformer_width: int = 128
    width: int = 256
    octaves: int = OCTAVES
    detail_start: float = 0.0
    own: bool = False
    model_bases: bool = False
    generic: ClassVar[bool] = True
    """Whether edits share a canonical space, and each pose names a shape."""

    def __post_init__(self) -> None:
        check_choice("avatar.start", self.start, STARTS)
        if self.outline_colors and not self.outline_steps:
            raise UserError(
                f"avatar.outline_colors={self.outline_colors}: colours are learnt in the steps "
                "for outlines, of which there are none; set avatar.outline_steps"
            )

    def build(self, body: Body, identity: BodyIdentity, edits: int = 1) -> HeadAvatar:
        """The untrained head of a person.

        Args:
            body: With the five joints of a head.
            identity: The person.
            edits: How many edits of the person there are, the unedited one among them.
        """
        if len(body.parents) != NUM_JOINTS:
            raise UserError(
                f"this system is for heads, whose body model has {NUM_JOINTS} joints (root, neck, "
                f"jaw, eyes); the one given has {len(body.parents)}: choose body=head or body=flame"
            )
        baked = not (self.generic and self.shape_cancel)
        return self.assemble(HeadTemplate.of(body, identity, baked), edits)

    def assemble(self, template: HeadTemplate, edits: int = 1) -> HeadAvatar:
        """On a body model that is ready."""
        raise NotImplementedError

    def first_points(self, template: HeadTemplate) -> tuple[Float[Tensor, "n 3"], float]:
        """Points in the canonical space, and their radius."""
        if self.start == "sphere":
            points = sphere(self.start_points)
        else:
            neutral = template.template.new_zeros(template.num_expression)
            vertices = template.posed_vertices(template.canonical_pose(neutral))
            rows = torch.linspace(0, len(vertices) - 1, min(self.start_points, len(vertices)))
            points = vertices[rows.round().long()].clone()
        doublings = math.log2(len(points) / 100)
        return points, self.radius * SHRINK**doublings

    def head(
        self,
        template: HeadTemplate,
        look: SurfaceLook | GaussianLook,
        edits: Edits,
    ) -> HeadAvatar:
        """The avatar of its parts."""
        points, radius = self.first_points(template)
        deformer = Deformer(
            latent=latent_size(edits),
            num_expression=template.num_expression,
            num_joints=template.num_joints,
            generic=self.generic,
            width=self.deformer_width,
        )
        avatar = HeadAvatar(
            template=template,
            deformer=deformer,
            look=look,
            edits=edits,
            points=points,
            radius=radius,
            epoch_steps=self.epoch_steps,
            own=self.own,
        )
        avatar.model_bases = self.model_bases
        return avatar


@dataclass(frozen=True, kw_only=True)
class PointAvatarBuilder(HeadBuilder):
    """A head of points of one person.

    Attributes:
        shading_width: of the shading network's layers.
    """

    shading_width: int = 64
    generic: ClassVar[bool] = False

    def assemble(self, template: HeadTemplate, edits: int = 1) -> HeadAvatar:
        """The avatar of one person."""
        look = SurfaceLook(
            SurfaceNetwork(width=self.width, octaves=self.octaves, others=self.detail_start),
            ShadingNetwork(width=self.shading_width),
        )
        return self.head(template, look, Edits(edits, template.shape_dirs.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class PegasusBuilder(HeadBuilder):
    """A head of points with a learnt code for each edit.

    Attributes:
        shading_width: of the shading network's layers.
        categories: of attributes.
        source: those that the person has in the first place.
        code: numbers of a code.
        code_std: of the first codes.
    """

    shading_width: int = 512
    width: int = 512
    categories: Sequence[str] = PEGASUS_CATEGORIES
    source: Sequence[str] = PEGASUS_SOURCE
    code: int = 32
    code_std: float = 0.25

    def assemble(self, template: HeadTemplate, edits: int = 1) -> HeadAvatar:
        """The avatar of a person and edits."""
        slots = Slots(
            categories=self.categories, source=self.source, code=self.code, std=self.code_std
        )
        codes = TableCodes(edits, self.code, self.code_std)
        known = Edits(edits, template.shape_dirs.shape[-1], slots, codes)
        look = SurfaceLook(
            SurfaceNetwork(
                latent=slots.size,
                width=self.width,
                segment=True,
                octaves=self.octaves,
                others=self.detail_start,
            ),
            ShadingNetwork(latent=slots.size, width=self.shading_width),
        )
        return self.head(template, look, known)


CODES = ("features", "table")


@dataclass(frozen=True, kw_only=True)
class PerseBuilder(HeadBuilder):
    """A head of Gaussians whose edits' codes come from pictures and words.

    Attributes:
        radius: see ``HeadBuilder``.
        width: see ``HeadBuilder``.
        pose_width: of the network of pose-dependent changes.
        code_width: of the network that makes codes.
        features: numbers of a picture and of words together, as the encoder gives them.
        codes: ``features``, or ``table`` for a learnt code for each edit (an ablation).
        categories: of attributes.
        source: those that the person has in the first place.
        code: numbers of a code.
        code_std: of the first codes.
        spread_codes: whether the edits' first codes differ by that much too, see
            ``FeatureCodes.spread``; else by what a fresh network makes of their features.
        largest: of the predicted scales: 0.0175 at 768 x 768 pixels, 0.025 at 512 x 512.
        turned: see ``GaussianLook``.
        as_released: see ``GaussianLook``.
        moves_canonical: whether there is an offset to the subject's canonical space, as in the
            paper; its code leaves it out.
        lora: whether layers have low-rank additions.
        lora_apart: whether the additions count only as far as a latent shows the edit that they
            learnt, so that all others stay as they were, and whether the person is what that edit
            must show where its pictures are not believed; the paper's always count, and leave
            those pixels out.
    """

    radius: float = 0.15
    width: int = 512
    pose_width: int = 128
    code_width: int = 512
    features: int = 1024
    codes: str = "features"
    categories: Sequence[str] = PERSE_CATEGORIES
    source: Sequence[str] = PERSE_SOURCE
    code: int = 32
    code_std: float = 0.05
    spread_codes: bool = False
    largest: float = 0.0175
    turned: bool = True
    as_released: bool = False
    moves_canonical: bool = True
    lora: bool = False
    lora_apart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("avatar.codes", self.codes, CODES)
        if self.lora_apart and not self.lora:
            raise UserError("avatar.lora_apart=true: there are no additions; set avatar.lora=true")

    def assemble(self, template: HeadTemplate, edits: int = 1) -> HeadAvatar:
        """The avatar of a person and edits."""
        slots = Slots(
            categories=self.categories, source=self.source, code=self.code, std=self.code_std
        )
        network = CodeNetwork(self.features, self.code, self.code_width)
        codes = (
            TableCodes(edits, self.code, self.code_std)
            if self.codes == "table"
            else FeatureCodes(edits, network, self.features)
        )
        look = GaussianLook(
            GaussianNetwork(
                latent=slots.size, width=self.width, octaves=self.octaves, others=self.detail_start
            ),
            PoseNetwork(latent=slots.size, width=self.pose_width),
            largest=self.largest,
            turned=self.turned,
            as_released=self.as_released,
        )
        size = template.shape_dirs.shape[-1]
        known = Edits(edits, size, slots, codes, apart=self.lora_apart)
        avatar = self.head(template, look, known)
        if not self.moves_canonical:
            avatar.moves_canonical = False
            avatar.deformer.cc.requires_grad_(False)
            avatar.deformer.cc_linear.requires_grad_(False)
        if self.lora:
            add_lora(avatar)
        return avatar


def add_lora(avatar: HeadAvatar) -> None:
    """Gives a head of Gaussians the low-rank additions of PERSE, which change nothing yet."""
    attach_lora(avatar.deformer, DEFORMER_LORA)
    if isinstance(avatar.look, GaussianLook):
        attach_lora(avatar.look.canonical, GAUSSIAN_LORA)
    if isinstance(avatar.edits.codes, FeatureCodes):
        attach_lora(avatar.edits.codes.network, CODE_LORA)


def latent_size(edits: Edits) -> int:
    """Numbers of the latents."""
    return 0 if edits.slots is None else edits.slots.size
