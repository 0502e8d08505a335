"""The interface of every avatar, with defaults for what most avatars do not need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.avatar.history import History
from persona.modules.avatar.rig import Rig
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, Posed, View

REST = "avatar"
"""Name of the rate of all parameters that have no rate of their own."""


@dataclass(frozen=True)
class PosedPoints:
    """A ``Posed`` with the same Gaussians in each asset."""

    points: Gaussians
    rgb: Float[Tensor, "n 3"]
    """[0, 1]."""

    @classmethod
    def opaque(
        cls, means: Float[Tensor, "n 3"], scales: Float[Tensor, "n 3"], rgb: Float[Tensor, "n 3"]
    ) -> "PosedPoints":
        """Opaque Gaussians along the axes of the camera frame."""
        turns = torch.eye(1, 4, dtype=means.dtype, device=means.device).expand(len(means), 4)
        return cls(Gaussians(means, scales, turns, means.new_ones(len(means))), rgb)

    def gaussians(self, asset: str) -> Gaussians:
        """All of them."""
        return self.points

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of all Gaussians."""
        return self.rgb


class Avatar(nn.Module):
    """A person who can be posed.

    The defaults are for an avatar whose number of Gaussians never changes.
    """

    per_gaussian: tuple[str, ...] = ()
    """Parameters and buffers with one row per Gaussian, as ``state_dict`` names them. Only an
    avatar that names them can change its number of Gaussians."""
    history: History | None = None
    """How it reads the body's earlier motion; None for an avatar that sees single poses."""
    capturable: bool = False
    """Whether a CUDA graph can replay a step: only the frame's kind decides what the host does."""

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> Posed:
        """The avatar in one pose, in the camera frame of the pose.

        Args:
            pose: Pose of one frame, with the body's joints.
            view: What else it may depend on; most avatars look the same in every view.
        """
        raise NotImplementedError

    def begin_step(self) -> None:
        """Begins an optimiser step."""

    def parameter_groups(self, rates: Mapping[str, float]) -> list[dict[str, object]]:
        """Optimiser groups: one for each rate, with the parameters of that name or module.

        Args:
            rates: Learning rates of parameters or modules by name; ``avatar`` is that of all
                others.

        Raises:
            UserError: a rate moves nothing, or a parameter has no rate.
        """
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
        for path, parameter in self.named_parameters():
            owner = max((n for n in rates if f"{path}.".startswith(f"{n}.")), key=len, default=REST)
            if owner not in groups:
                raise UserError(
                    f"rates of {type(self).__name__}: none moves {path}; add it, or {REST} for all "
                    "that have none of their own"
                )
            groups[owner].append(parameter)
        if idle := sorted(name for name, found in groups.items() if not found):
            raise UserError(
                f"rates of {type(self).__name__}: {idle[0]} moves no parameter; take it away"
            )
        return [{"name": name, "params": groups[name], "lr": rates[name]} for name in rates]

    def rig(self, pose: Pose | None = None) -> Rig:
        """The avatar as skinning alone can show it, for game engines; avatars that can, define it.

        Args:
            pose: Pose of one frame; what the avatar adds to its shape in this pose is baked
                in. None leaves all that depends on the pose out.

        Raises:
            UserError: it cannot be said so.
        """
        raise UserError(
            f"{type(self).__name__} has no rig (Avatar.rig): export single poses (format=ply)"
        )

    # The number of Gaussians -----------------------------------------------------------------

    def size(self) -> dict[str, int]:
        """Sizes that may differ from those of a freshly built avatar; a checkpoint stores them."""
        if not self.per_gaussian:
            return {}
        return {"gaussians": len(self._rows(self.per_gaussian[0]))}

    def flags(self) -> dict[str, bool]:
        """What its tensors do not tell; a checkpoint stores it for runs that start from it."""
        return {}

    def set_size(self, size: Mapping[str, int]) -> None:
        """Resizes the tensors to those of a checkpoint, which has yet to fill them.

        Raises:
            UserError: the avatar has no such size.
        """
        if dict(size) == self.size():
            return
        if not self.per_gaussian or set(size) != {"gaussians"}:
            raise UserError(
                f"checkpoint does not fit this avatar: {type(self).__name__} cannot have the size "
                f"{dict(size)}; use the configuration it was trained with"
            )
        none = torch.zeros(0, dtype=torch.long)
        room = {name: rows.new_zeros(size["gaussians"], *rows.shape[1:])
                for name, rows in self.copies(none).items()}  # fmt: skip
        self.resize(none, room)

    def copies(self, rows: Int[Tensor, "k"]) -> dict[str, Tensor]:
        """What some Gaussians have, as ``resize`` takes new ones."""
        return {name: self._rows(name).detach()[rows] for name in self.per_gaussian}

    @torch.no_grad()
    def resize(
        self, keep: Int[Tensor, "k"], fresh: Mapping[str, Shaped[Tensor, "_ *_"]]
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Keeps the Gaussians of some rows, in that order, and puts new ones behind them.

        In training call ``Fit.resize`` instead, which updates the optimiser and all processes as
        well.

        Args:
            keep: Rows.
            fresh: New rows of everything in ``per_gaussian``; none where it is empty.

        Returns:
            The new parameter for each one that was replaced.

        Raises:
            ValueError: new rows of something are missing or have another shape.
        """
        counts = {len(rows) for rows in fresh.values()}
        if fresh and (set(fresh) != set(self.per_gaussian) or len(counts) > 1):
            wanted = ", ".join(self.per_gaussian)
            raise ValueError(f"{type(self).__name__}: give equally many new rows of each: {wanted}")
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for name in self.per_gaussian:
            old = self._rows(name)
            rows = old.detach()[keep.to(old.device)]
            if fresh:
                rows = torch.cat([rows, fresh[name].to(old)])
            owner, _, leaf = name.rpartition(".")
            if isinstance(old, nn.Parameter):
                replaced[old] = rows = nn.Parameter(rows, old.requires_grad)
            setattr(self.get_submodule(owner), leaf, rows)
        return replaced

    @torch.no_grad()
    def set_rows(self, anew: Mapping[str, Tensor]) -> list[nn.Parameter]:
        """Overwrites rows of some tensors for the first Gaussians.

        Args:
            anew: Rows, by names of ``per_gaussian``.

        Returns:
            The parameters among what was set.
        """
        found = {name: self._rows(name) for name in anew}
        for name, values in anew.items():
            found[name][: len(values)] = values.to(found[name])
        return [rows for rows in found.values() if isinstance(rows, nn.Parameter)]

    def split(
        self, rows: Int[Tensor, "k"], shift: Float[Tensor, "k 3"], shrink: Float[Tensor, "k"]
    ) -> dict[str, Shaped[Tensor, "k *_"]]:
        """New Gaussians drawn from others, as ``resize`` takes them; growing avatars define it.

        Args:
            rows: The Gaussian that each new one is drawn from.
            shift: How far it lies from that one, in standard deviations along its axes.
            shrink: What its scale is divided by.
        """
        raise NotImplementedError(f"{type(self).__name__} says not how its Gaussians are split")

    def _rows(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        return getattr(self.get_submodule(owner), leaf)


@runtime_checkable
class Builder(Protocol):
    """Settings of an avatar, which is built once the person is known."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates, as the avatar's ``parameter_groups`` takes them."""

    def build(self, body: Any, identity: BodyIdentity) -> Avatar:
        """The untrained avatar of a person, on a ``Body`` of the kind that it takes."""
