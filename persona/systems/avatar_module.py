"""A method's avatar as a LightningModule: built for a person, drawn, saved and loaded."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import lightning as L
import torch
from torch import Tensor

from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.base import Body
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.method import Draw, Layers, Method
from persona.types import PLAIN_VIEW, BodyIdentity, Camera, Garment, Pose, View

IDENTITY = ("betas", "face_offset", "joint_offset")


class AvatarModule(L.LightningModule):
    """The avatar of any ``Method`` and the poses of its training frames.

    Args:
        method: makes and draws the avatar.
    """

    table: PoseTable
    """Poses of the training frames, once the avatar is built."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    # The method's parts, for what renders and reports ----------------------------------------

    @property
    def avatar(self) -> Avatar:
        """The method's avatar, once it is built."""
        return self.method.avatar

    @property
    def body(self) -> Body:
        """The method's body model."""
        return self.method.body

    @property
    def identity(self) -> BodyIdentity:
        """The person, once known."""
        return self.method.identity

    @property
    def renderer(self) -> GaussianRenderer:
        """The method's rasteriser."""
        return self.method.renderer

    @property
    def assets(self) -> tuple[str, ...]:
        """The method's variants of the avatar, its result last."""
        return self.method.assets

    # Construction ----------------------------------------------------------------------------

    def build(self, identity: BodyIdentity, num_frames: int) -> None:
        """Makes the avatar of a person and an empty pose table."""
        self.method.build(identity)
        history = self.avatar.history
        self.table = PoseTable(self.body, num_frames=num_frames, history=history)
        self.table.requires_grad_(self.method.trained)

    def pose_table(self, frames: FrameDataset) -> PoseTable:
        """The poses of frames as tracked, with their history if the avatar asks for one."""
        poses = frames.poses(self.body.num_expression).to(self.device)  # Where the body is.
        return PoseTable.from_poses(self.body, poses, self.avatar.history, frames.lengths)

    # Rendering -------------------------------------------------------------------------------

    def render(
        self, pose: Pose, camera: Camera, asset: str | None = None, view: View = PLAIN_VIEW
    ) -> Layers:
        """``Method.render``."""
        return self.method.render(pose, camera, asset, view)

    def clip(self, poses: Pose, asset: str | None = None, view: View = PLAIN_VIEW) -> Draw:
        """``Method.clip``."""
        return self.method.clip(poses, asset, view)

    # Checkpoints -----------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """What the method saves and the pose table: bodies, losses and metrics are rebuilt."""
        state = super().state_dict(*args, **kwargs)
        kept = tuple(f"{name}." for name in (*self.method.saved, "table"))
        named = {k.removeprefix("method."): v for k, v in state.items()}
        return {k: v for k, v in named.items() if k.startswith(kept)}

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ):
        """Loads what ``state_dict`` saves; anything missing or left over is an error."""
        own = self.state_dict()
        differing = own.keys() ^ state_dict.keys()
        shapes = [k for k in own.keys() & state_dict.keys() if own[k].shape != state_dict[k].shape]
        if differing or shapes:
            first = sorted([*differing, *shapes])[0]
            raise UserError(
                f"checkpoint does not fit this avatar (first difference: {first}); "
                "use the configuration it was trained with"
            )
        saved = tuple(f"{name}." for name in self.method.saved)
        own = {f"method.{k}" if k.startswith(saved) else k: v for k, v in state_dict.items()}
        return super().load_state_dict(own, strict=False, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what is needed to build the avatar again: body, identity and number of frames."""
        worn = self.identity.garment
        garment = worn and {f.name: getattr(worn, f.name).cpu() for f in fields(worn)}
        checkpoint["persona"] = {
            "body": self.body.name,
            "body_digest": self.body.digest,
            "identity": {k: getattr(self.identity, k).cpu() for k in IDENTITY},
            "garment": garment,
            "num_frames": len(self.table.trans),
            "people": list(self.method.people),
            "size": self.avatar.size(),
            "flags": self.avatar.flags(),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Builds the checkpoint's avatar if none is built yet.

        Raises:
            UserError: not a checkpoint of this system, or made with another body.
        """
        made = checkpoint.get("persona")
        if made is None:
            raise UserError("not a checkpoint of persona; give a run folder made by train.py")
        if made["body_digest"] != self.body.digest:
            raise UserError(
                f"checkpoint was made with body {made['body']} ({made['body_digest'][:8]}), not "
                f"{self.body.name} ({self.body.digest[:8]}); choose that body"
            )
        shape = len(made["identity"]["betas"])
        if shape != self.body.num_betas:
            raise UserError(
                f"checkpoint was made with {shape} shape coefficients of body {made['body']}, not "
                f"{self.body.num_betas}; use the configuration it was trained with"
            )
        garment = made.get("garment")
        worn = Garment(**garment) if garment else None
        # A training that goes on has carved again, perhaps by other code or on another machine.
        if not self.method.built or not same_garment(self.identity.garment, worn):
            device = self.device
            self.cpu()  # The avatar is built on the CPU.
            self.method.people = tuple(made.get("people", ()))
            self.build(BodyIdentity(**made["identity"], garment=worn), made["num_frames"])
            self.to(device)
        self.avatar.set_size(made.get("size", {}))


def same_garment(one: Garment | None, other: Garment | None) -> bool:
    """Whether two persons wear the very same, or nothing, beside the body."""
    if one is None or other is None:
        return one is other
    values = [[getattr(g, f.name).cpu() for f in fields(Garment)] for g in (one, other)]
    return all(map(torch.equal, *values))
