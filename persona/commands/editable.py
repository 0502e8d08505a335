"""A trained head whose attributes can be edited, and a pose to see them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.edit_name import read_edit_name
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.head.attributes import SOURCE
from persona.modules.head.avatar import HeadAvatar
from persona.systems.fit import Fit
from persona.types import Camera, Pose, View


def has_edits(system: Fit) -> bool:
    """Whether the avatar is a head that was trained with edits, not on one person alone."""
    avatar = system.avatar
    if not isinstance(avatar, HeadAvatar) or avatar.edits.slots is None:
        return False
    return len(avatar.edits.betas) > 1


class EditableHead:
    """A trained head and its edits by name, in the pose and from the view of a training frame.

    Args:
        system: Trained, on any device.
        frames: Training frames of the system.
        row: Which of them.

    Raises:
        UserError: The avatar has no edits, or there is no such frame.
    """

    def __init__(self, system: Fit, frames: FrameDataset, row: int) -> None:
        if not has_edits(system):
            raise UserError("the run's avatar has no edits: train system=perse or system=pegasus")
        if not 0 <= row < len(frames):
            raise UserError(f"frame={row}: the run has frames 0 to {len(frames) - 1}")
        self.system, device = system, system.device
        self.camera: Camera = frames[[row]].camera[0].local().to(device)
        self.pose: Pose = system.table(torch.tensor(row, device=device))

    @property
    def avatar(self) -> HeadAvatar:
        """Avatar of the system."""
        avatar = self.system.avatar
        assert isinstance(avatar, HeadAvatar)  # It has edits.
        return avatar

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the edits, in the order of their numbers."""
        return self.system.method.people

    @property
    def edits(self) -> tuple[str, ...]:
        """``names`` without the person as photographed, and what lies between two edits."""
        own = (name for name in self.names if read_edit_name(name).between is None)
        return tuple(name for name in own if self.category(name) != SOURCE)

    def category(self, name: str) -> str:
        """Attribute that an edit changes."""
        return read_edit_name(name).category

    def number(self, name: str) -> int:
        """Number of an edit, by its folder's name.

        Raises:
            UserError: The run has none of this name.
        """
        if name not in self.names:
            raise UserError(f"{name} is no edit of the run: choose of {', '.join(self.names)}")
        return self.names.index(name)

    def named(self, category: str, words: str) -> str:
        """The edit of an attribute by its whole name or by what it is changed to.

        Raises:
            UserError: No such attribute, or none of its edits is called so, or several are.
        """
        own = [name for name in self.edits if self.category(name) == category]
        if not own:
            have = ", ".join(sorted({self.category(name) for name in self.edits}))
            raise UserError(f"attribute {category} has no edit in the run: it has edits of {have}")
        asked = words.replace("_", " ")
        found = [n for n in own if n == words or read_edit_name(n).words == asked]
        if len(found) != 1:
            problem = "several edits" if found else "no edit"
            raise UserError(f"{category}={words}: {problem} of this name; choose {', '.join(own)}")
        return found[0]

    def code(self, name: str) -> Float[Tensor, "c"]:
        """Code of an edit, or of the person as photographed where it is no edit's name."""
        number = torch.tensor(self.number(name), device=self.system.device)
        return self.avatar.edits(number).code

    def present(self, category: str) -> Float[Tensor, "c"]:
        """Code of an attribute of the person as photographed."""
        slots = self.avatar.edits.slots
        assert slots is not None  # There are edits.
        return slots.codes[slots.number(category)]

    @torch.no_grad()
    def draw(self, latent: Float[Tensor, "l"]) -> Float[Tensor, "3 h w"]:
        """The person with a latent, on white, [0, 1]."""
        color, alpha = self.system.render(self.pose, self.camera, view=View(latent=latent))
        return (color + 1 - alpha).clamp(0, 1)

    @torch.no_grad()
    def mixed(
        self, edits: Mapping[str, str], strengths: Sequence[float]
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures with several attributes edited at once.

        Args:
            edits: Name of an edit, by the attribute.
            strengths: Shares of the edits' codes, from those of the person as photographed.
        """
        ends = {c: (self.present(c), self.code(name)) for c, name in edits.items()}
        return self._drawn([{c: torch.lerp(*e, s) for c, e in ends.items()} for s in strengths])

    @torch.no_grad()
    def between(
        self, category: str, start: Tensor, end: Tensor, shares: Sequence[float]
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures with an attribute's code between two; ``shares`` of the second, [0, 1]."""
        return self._drawn([{category: torch.lerp(start, end, share)} for share in shares])

    def _drawn(self, codes: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n 3 h w"]:
        return torch.stack([self.draw(self.avatar.edits.mixed(code).latent) for code in codes])
