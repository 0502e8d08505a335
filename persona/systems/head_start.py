"""A head that starts from the trained head of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from persona.errors import UserError
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.lora import lora_state
from persona.runtime.checkpoint import CHECKPOINT_FILE, read_checkpoint

BY_EDIT = (
    "edits.betas", "edits.slot", "edits.ends", "edits.share", "edits.partly", "edits.added",
)  # fmt: skip
"""Tables with one row per edit that are not copied: the new run's folders give them again."""
BY_NAME = ("edits.codes.table", "edits.codes.features")
"""Tables with one row per edit; rows of edits that both runs have are copied, by name."""


def read_start(run: Path) -> Mapping[str, Any]:
    """Reads the checkpoint of a run to start from.

    Raises:
        UserError: There is none, or it holds no avatar.
    """
    path = run / CHECKPOINT_FILE
    if not path.is_file():
        raise UserError(f"system.method.start={run}: no {CHECKPOINT_FILE} there; give a run folder")
    checkpoint = read_checkpoint(path)
    if "persona" not in checkpoint:
        raise UserError(f"system.method.start={run}: not a run of train.py")
    return checkpoint


@torch.no_grad()
def take_over(
    avatar: HeadAvatar, people: Sequence[str], checkpoint: Mapping[str, Any], source: str
) -> None:
    """Copies what another avatar has learnt, except its low-rank additions, to an untrained one.

    Args:
        avatar: The untrained avatar; it has the other's number of points afterwards.
        people: Names of its edits, in order.
        checkpoint: The other run's checkpoint.
        source: Where the checkpoint is from, for messages.

    Raises:
        UserError: The two avatars differ in their settings, or both have additions, of which this
            one's are for its own new edits alone.
    """
    made = checkpoint["persona"]
    own_flags = avatar.flags()
    # Runs from before checkpoints had flags are without the model's bases.
    for name, value in ({"model_bases": False} | made.get("flags", {})).items():
        if value != own_flags[name]:
            raise UserError(
                f"system.method.start={source}: that run has avatar.{name}={str(value).lower()}, "
                "which this one must have, too"
            )
    before = {
        key.removeprefix("avatar."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("avatar.")
    }
    avatar.set_size(made["size"])
    own, additions = avatar.state_dict(), lora_state(avatar)
    for key in BY_NAME:
        if key in own and key in before:
            rows = own[key].clone()
            for row, name in enumerate(made["people"]):
                if name in people:
                    rows[people.index(name)] = before[key][row]
            before[key] = rows
    if avatar.edits.apart and additions.keys() & before.keys():
        raise UserError(
            f"system.method.start={source}: that run learnt an edit by additions itself, which "
            "avatar.lora_apart=true cannot keep; start from the run before it"
        )
    state = {key: own[key] for key in (*BY_EDIT, *additions) if key in own}
    state |= {key: value for key, value in before.items() if key not in BY_EDIT}
    odd = sorted(own.keys() ^ state.keys())
    odd += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if odd:
        raise UserError(
            f"system.method.start={source}: its avatar has other settings (first difference: "
            f"{odd[0]}); give avatar.* as that run has it"
        )
    avatar.load_state_dict(state)
    new = [float(name not in made["people"]) for name in people]
    avatar.edits.added.copy_(torch.tensor(new))
