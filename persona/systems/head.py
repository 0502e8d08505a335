"""Base class of the methods for heads that are made of canonical points."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.edit_name import read_edit_name
from persona.data.frames import FrameDataset
from persona.data.subject import Subject
from persona.errors import UserError, check_choice
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.base import Body
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.head.attributes import SOURCE
from persona.modules.head.avatar import HeadAvatar, PosedHead
from persona.modules.head.builder import HeadBuilder, PerseBuilder
from persona.modules.head.looks import DrawnSurface, GaussianLook
from persona.modules.head.lora import train_lora_only
from persona.modules.losses.head_step import EDIT_MAP, VIEW, HeadStep
from persona.modules.losses.random_colors import RandomColors
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.head_outline import learn_outlines, points_in_outlines
from persona.systems.head_start import read_start, take_over
from persona.systems.method import Method, Views
from persona.types import BodyIdentity, Camera, Channel, Frame, Pose

log = logging.getLogger(__name__)
BACKGROUNDS = ("white", "random")
BELIEVED = ("edited", "everywhere")
CAMERA_FROM_MAP = (1.0, -1.0, -1.0)
"""Signs of the axes: normal maps have y up and z towards the camera, cameras y down and z away."""


class HeadMethod(Method):
    """A head of canonical points, whose subjects are edits of one person.

    A subject has the number of its edit. The first one is the person as photographed.

    Args:
        body: body model of a head.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the person is known.
        background: what is put behind truth and render in training: ``white``, or ``random``, a
            new colour in each step.
        start: folder of a run whose trained avatar this one starts from; codes are copied between
            edits of the same name, and avatar settings must equal that run's. None starts anew.
        believed: where pictures of edits that another network made count, which are those between
            two edits and those that low-rank additions learn: ``edited``, on the edited attribute
            and the background, as in PERSE; or ``everywhere``.
    """

    body: ShapedBody
    avatar: HeadAvatar
    builder: HeadBuilder
    map_axes: Float[Tensor, "3"]
    assets = (VIEW,)
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {"image": ("img",)}

    def __init__(
        self,
        *,
        body: Body,
        renderer: GaussianRenderer,
        avatar: HeadBuilder,
        background: str = "random",
        start: str | Path | None = None,
        believed: str = "edited",
    ) -> None:
        super().__init__(body=body, renderer=renderer, avatar=avatar)
        self.start = None if start is None else Path(start)
        check_choice("system.method.background", background, BACKGROUNDS)
        check_choice("system.method.believed", believed, BELIEVED)
        self.believed = believed
        self.random = background == "random"
        self.backgrounds = RandomColors()
        self.register_buffer("map_axes", torch.tensor(CAMERA_FROM_MAP), persistent=False)

    def build(self, identity: BodyIdentity) -> None:
        """Makes the avatar with room for all edits."""
        self.identity = identity
        self.avatar = self.builder.build(self.body, identity, max(1, len(self.people)))
        between = (read_edit_name(name).between for name in self.people)
        self.avatar.edits.blends = self.partly or any(found is not None for found in between)
        if self.partly and self.start is not None:
            train_lora_only(self.avatar)

    @property
    def partly(self) -> bool:
        """Whether training uses pictures of all edits only where they show the edited attribute."""
        return isinstance(self.builder, PerseBuilder) and self.builder.lora

    def check(self) -> None:
        """Checks, as ``Method`` asks, that the run to start from can be read."""
        if self.start is not None:
            read_start(self.start)

    def see_poses(self, poses: PoseTable) -> None:
        """Sets the canonical expression: the mean one, or that of the run to start from."""
        self.avatar.see_expressions(poses.expression.detach())
        if self.start is not None:
            take_over(self.avatar, self.people, read_start(self.start), str(self.start))

    def initialise(self, subject: Subject) -> None:
        """Sets up the edit of a subject: the attribute that its name gives, and its shape.

        Raises:
            UserError: the name gives an attribute or folders that do not exist.
        """
        number, edits = self.people.index(subject.name), self.avatar.edits
        name = read_edit_name(subject.name)
        category = name.category if len(self.people) > 1 else SOURCE
        betas = subject.identity(self.body).betas
        made = name.between is not None or (self.partly and category != SOURCE)
        partly = made and self.believed == "edited"
        edits.describe(number, category, betas[: edits.betas.shape[1]], partly)
        if name.between is not None:
            first, second, share = name.between
            if max(first, second) >= len(self.people):
                raise UserError(
                    f"{subject.name} lies between the folders {first} and {second} of data.roots, "
                    f"which has {len(self.people)}, counted from 0"
                )
            edits.blend(number, (first, second), share)
        elif self.start is None and self.builder.around_points:
            self._put_around(subject)

    def _put_around(self, subject: Subject) -> None:
        """Adds points for what the subject wears, such as hair or a hat."""
        avatar, builder = self.avatar, self.builder
        fresh = points_in_outlines(
            avatar, self.body, subject, builder.around_points, builder.around
        )
        like = avatar.copies(torch.zeros(len(fresh), dtype=torch.long)) | {"points": fresh}
        avatar.resize(torch.arange(len(avatar.points)), like)

    def see_frames(self, subjects: Sequence[Subject], frames: FrameDataset) -> None:
        """Teaches an untrained head of Gaussians which points each edit has."""
        avatar, steps = self.avatar, self.builder.outline_steps
        if not steps or self.start is not None or int(avatar.steps):
            return
        if not isinstance(avatar.look, GaussianLook):
            raise UserError("avatar.outline_steps: a head of shaded points is opaque; leave it 0")
        builder = self.builder
        # Steps of Adam move codes that are spread far apart by more than their distance.
        held = [
            weight
            for group in self.parameter_groups() if not group["lr"]
            for weight in cast("list[Tensor]", group["params"])
        ]  # fmt: skip
        share = learn_outlines(
            avatar, self.body, subjects, steps, builder.around, builder.outline_colors, held
        )
        log.info("outlines: %.0f %% of the points are where they should be", 100 * share)

    def observe(self, frame: Frame, pose: Pose, views: Views, turn: int = 0) -> HeadStep:
        """Poses the head of the frame's subject and renders the images that the losses read."""
        camera, image = frame.camera[0].local(), frame.image[0]
        color = image.new_ones(3)
        if self.random:
            color = self.backgrounds(self.avatar.steps + turn, frame.index)
        background = color[:, None, None].expand_as(image)
        unedited = None
        unbelieved = self.believed == "edited" and EDIT_MAP in frame.others
        if self.avatar.edits.apart and unbelieved:
            # First, because the share of the additions stays set.
            unedited = self._unedited(pose, camera, background)
        posed = self.avatar(pose, frame.view)
        channels = {name: Channel(self._values(posed, name)) for name in views[VIEW] | {"rgb"}}
        render = self.renderer(posed.gaussians(VIEW), camera, channels)
        return HeadStep(
            frame=frame, avatar=self.avatar, posed=posed, pose=pose, renders={VIEW: render},
            mesh_masks={}, boundary={}, background=background, unedited=unedited,
        )  # fmt: skip

    def frame_kind(self, frame: Frame) -> Hashable:
        """Names of a frame's further maps: without that of the edit a step draws less."""
        return frozenset(frame.others)

    @torch.no_grad()
    def _unedited(
        self, pose: Pose, camera: Camera, background: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "3 h w"]:
        """The person as photographed, over a background."""
        rgb, alpha = self.render(pose, camera)
        return rgb + background * (1 - alpha)

    def _values(self, posed: PosedHead, channel: str) -> Float[Tensor, "n c"]:
        """A channel's value at each point, in the same units as the map of ``Frame``."""
        if channel == "rgb":
            return posed.colors(VIEW)
        drawn = posed.drawn
        if not isinstance(drawn, DrawnSurface):
            raise UserError(f"a head of Gaussians has no {channel}: take the loss of it away")
        if channel == "normal":
            return (drawn.normals * self.map_axes + 1) / 2
        if channel == "segment" and drawn.surface.segment is not None:
            return drawn.surface.segment[:, None]
        raise UserError(f"this head has no {channel}: take the loss of it away")
