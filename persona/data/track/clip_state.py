"""Unknowns of the fit of a clip: one shape, and a pose for every frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.data.preprocess.fit_state import FitState
from persona.modules.body.rotation import sixd_from_matrix
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity

_JAW = "jaw"


class ClipState(FitState):
    """A ``FitState`` whose rows are frames of one person.

    Args:
        body: Body model.
        root: Root rotations.
        trans: Translations, metres.
        identity: The person's shape, which is kept; None makes it a part of the fit.
        alone: Each frame gets a shape of its own, as if it were a photograph.
    """

    def __init__(
        self,
        body: SmplxBody,
        root: Float[Tensor, "t 3 3"],
        trans: Float[Tensor, "t 3"],
        identity: BodyIdentity | None = None,
        alone: bool = False,
    ):
        super().__init__(body, torch.arange(len(root)), root, trans)
        if not alone:
            self.betas = nn.Parameter(torch.zeros(1, body.num_betas))
            self.joint_offset = nn.Parameter(torch.zeros(1, *self.joint_offset.shape[1:]))
        if identity is not None:
            self.keep_shape(identity)
        # The mouth opens by the jaw, which every avatar has, and not by an expression.
        names = body.expression_names or ()
        self.shown = torch.tensor([0.0 if n.startswith(_JAW) else 1.0 for n in names] or [1.0])

    def fitted(self) -> list[nn.Parameter]:
        """Parameters of the last stage."""
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def project(self) -> None:
        """Keeps named expression units in [0, 1], and those of the jaw at 0."""
        super().project()
        self.expression.mul_(self.shown)

    @torch.no_grad()
    def hold(self, rows: slice, kept: dict[str, Tensor]) -> None:
        """Sets frames to the result of an earlier window."""
        for name, values in kept.items():
            getattr(self, name).data[rows] = values

    def frames(self, rows: slice) -> dict[str, Tensor]:
        """Copies of what belongs to frames."""
        names = ("root", "trans", "body", "jaw", "hands", "expression")
        return {name: getattr(self, name).detach()[rows].clone() for name in names}

    @torch.no_grad()
    def start_from(self, root: Float[Tensor, "t 3 3"], trans: Float[Tensor, "t 3"]) -> None:
        """Sets where the body stands."""
        self.root.data[:], self.trans.data[:] = sixd_from_matrix(root), trans
