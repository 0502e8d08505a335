"""AniGS-style: a person from a ring of inconsistent views, each with offsets of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.subject import Subject
from persona.modules.avatar.anigs import AniGsAvatar, PosedAniGs
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.avatar.vertex_colors import texture_colors
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.modules.losses.anigs import VIEW, AniGsStep
from persona.systems.method import Method, Views
from persona.types import Channel, Frame, Pose


class AniGsMethod(Method):
    """Every training frame is a view; tests, animation and pose fits use the canonical person.

    Source: Qiu et al. 2024, "AniGS", arXiv:2412.02684, second stage, built from its description.
    """

    assets = (VIEW,)
    style = True
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {"image": ("image",)}
    body: SmplxBody
    avatar: AniGsAvatar

    def see_poses(self, poses: PoseTable) -> None:
        """There are as many views as training frames."""
        if self.avatar.settings is not None:
            self.avatar.set_size({"views": len(poses.trans)})

    def initialise(self, subject: Subject) -> None:
        """Takes colours from the texture that most views were unwrapped to."""
        inpaint = subject.textures(subject.textured_splits[-1]).inpaint
        body, mesh = self.body, self.avatar.template.subdivision
        texture = torch.from_numpy(inpaint).float() / 255
        rgb = texture_colors(texture, body.uv, body.uv_faces, body.faces, mesh)
        self.avatar.initialise_colors(rgb)

    def observe(self, frame: Frame, pose: Pose, views: Views, turn: int = 0) -> AniGsStep:
        """Renders the frame's own view; in a pose fit, which has no views, the canonical person."""
        moment = None if turn else frame.index[0]
        posed = self.avatar(pose, replace(frame.view, moment=moment))
        camera = frame.camera[0].local()
        wanted = {name: self._channel(posed, name) for name in sorted(views[VIEW] - {"alpha"})}
        render = self.renderer(posed.points, camera, wanted)
        return AniGsStep(frame, self.avatar, posed, {VIEW: render}, {}, {})

    def _channel(self, posed: PosedAniGs, name: str) -> Channel:
        return Channel(posed.rgb if name == "rgb" else self._normals(posed))

    def _normals(self, posed: PosedAniGs) -> Float[Tensor, "n 3"]:
        """Their x is right, y up, z to the camera, as in ``Frame``."""
        template = self.avatar.template
        normals = vertex_normals(posed.points.means, template.faces, template.fans)
        return torch.cat([normals[:, :1], -normals[:, 1:]], 1)
