"""The interface of methods: how an avatar is built, initialised and rendered."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.data.frames import FrameDataset
from persona.data.subject import Subject
from persona.modules.avatar.base import Avatar, Builder
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.base import Body
from persona.modules.losses.base import Step
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import (
    PLAIN_VIEW,
    BodyIdentity,
    Camera,
    Channel,
    Frame,
    Pose,
    Posed,
    View,
)

Layers = tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]
"""Premultiplied colour and alpha."""
Draw = Callable[[int | Int[Tensor, "1"], Camera], Layers]
"""Draws a clip's pose by its row; the row may be a tensor on the device."""
TrainedFrames = Callable[[str, int], Iterator[tuple[Frame, Pose]]]
"""At most so many of the frames of a role, evenly spread, and their trained poses."""
Views = Mapping[str, frozenset[str]]
"""Channels that losses read, by view."""


class Method(nn.Module):
    """The method of a paper for one subject's avatar; ``Fit`` trains, tests and saves any.

    The defaults are those of a method whose builder makes an avatar of Gaussians, whose start does
    not depend on the subject's folder. Everything else is overridden.

    Args:
        body: body model.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the person is known; None where ``build`` is overridden.
    """

    assets: ClassVar[tuple[str, ...]] = ("base", "refined")
    """Variants of the avatar that are rendered and scored. The last one is the method's result; the
    others' metrics are logged with their name as prefix."""
    trained: ClassVar[bool] = True
    """False for a method that is not trained on the subject: one without parameters, or one whose
    network makes the avatar in a single pass. No frames are generated for it, no step is taken, and
    its start is its result."""
    reads_texture: ClassVar[bool] = True
    """Whether it wants the complete folder: the body in clothes, textures, and clips if it is
    ``trained``. False, only for methods with ``trained = False``: the photograph and the naked body
    in it are enough, and no time is spent on the rest."""
    style: ClassVar[bool] = False
    """True for a method after a paper without public code, whose parts are not all here: tables add
    "-style" to its name."""
    differentiable: ClassVar[bool] = True
    """Whether the renders of ``observe`` have a gradient, so that poses can be fitted."""
    many: ClassVar[bool] = False
    """Whether it learns from several subjects; else more than one is an error."""
    saved: ClassVar[tuple[str, ...]] = ("avatar",)
    """Modules that a checkpoint keeps, because they cannot be built again."""
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Names of the losses by which test poses are fitted, for each way to evaluate the method."""
    avatar: Avatar
    """Once it is ``built``."""
    identity: BodyIdentity
    """The person, likewise."""

    def __init__(
        self, *, body: Body, renderer: GaussianRenderer, avatar: Builder | None = None
    ) -> None:
        super().__init__()
        self.body = body.requires_grad_(False)
        self.renderer, self.builder = renderer, avatar
        self.people: tuple[str, ...] = ()
        """Names of the subjects, in the order of their numbers; known before ``build``."""

    @property
    def built(self) -> bool:
        """Whether there is an avatar."""
        return "avatar" in self._modules

    def check(self) -> None:
        """Checks before the long work that what ``initialise`` needs besides the subject is there.

        Raises:
            UserError: it is missing.
        """

    def dress(self, identity: BodyIdentity, frames: FrameDataset) -> BodyIdentity:
        """Adds to the person, before ``build``, what the training frames show of its shape."""
        return identity

    def build(self, identity: BodyIdentity) -> None:
        """Makes the untrained avatar of a person; call ``super().build``.

        identity: of the first subject, where there are many.
        """
        self.identity = identity
        if self.builder is not None:
            self.avatar = self.builder.build(self.body, identity)

    def initialise(self, subject: Subject) -> None:
        """Initialises the avatar from the subject's folder, such as its colours.

        Called for each subject, where there are many.
        """

    def see_poses(self, poses: PoseTable) -> None:
        """Called before training with the poses of all training frames."""

    def see_frames(self, subjects: Sequence[Subject], frames: FrameDataset) -> None:
        """Called each time that training begins, to read what losses compare with besides frames.

        Args:
            subjects: In the order of their numbers.
            frames: All training frames, as rows of the pose table.
        """

    def finish(self, frames: TrainedFrames) -> None:
        """Called when training ends, with what it saw."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """Optimiser groups of the trained parameters, with rates for one frame per step."""
        if self.builder is None:
            name = type(self).__name__
            raise NotImplementedError(f"{name}: give it a builder, or define parameter_groups")
        return self.avatar.parameter_groups(self.builder.rates)

    def observe(self, frame: Frame, pose: Pose, views: Views, turn: int = 0) -> Step:
        """Poses the avatar for one frame and renders what the losses ask for.

        By default each view is an asset and its one channel ``rgb``.

        Args:
            frame: Batch of one.
            pose: Pose of the frame.
            views: Channels that the losses read, by view.
            turn: Update of a pose fit, from 1; 0 in training, where the avatar counts the steps.
        """
        posed, camera = self.avatar(pose, frame.view), frame.camera[0].local()
        renders = {
            view: self.renderer(posed.gaussians(view), camera, {"rgb": Channel(posed.colors(view))})
            for view in views
        }
        return Step(frame, self.avatar, posed, renders, {}, {})

    def frame_kind(self, frame: Frame) -> Hashable:
        """What ``observe`` reads besides a frame's tensors; each kind gets its own CUDA graph."""
        return None

    def render(
        self, pose: Pose, camera: Camera, asset: str | None = None, view: View = PLAIN_VIEW
    ) -> Layers:
        """Premultiplied colour and alpha of the avatar in one pose.

        Args:
            pose: of one frame.
            camera: unbatched; its world is the frame that ``pose`` is given in.
            asset: one of ``assets``; by default the last, the method's result.
            view: what the avatar may depend on besides the pose.
        """
        asset = asset or self.assets[-1]
        return self.render_posed(self.avatar(pose, view), camera, (asset,))[asset]

    def render_posed(
        self, posed: Posed, camera: Camera, assets: Sequence[str]
    ) -> dict[str, Layers]:
        """Premultiplied colour and alpha of several assets of a posed avatar.

        Args:
            posed: what the avatar returned.
            camera: unbatched.
            assets: which to render.
        """
        renders = {
            a: self.renderer(posed.gaussians(a), camera, {"rgb": Channel(posed.colors(a))})
            for a in assets
        }
        return {asset: (r.images["rgb"], r.alpha) for asset, r in renders.items()}

    def clip(self, poses: Pose, asset: str | None = None, view: View = PLAIN_VIEW) -> Draw:
        """A function that renders the poses of a clip by their row, as ``render`` does.

        A method that can precompute something for a whole clip overrides this.
        """
        return lambda row, camera: self.render(poses.row(row), camera, asset, view)
