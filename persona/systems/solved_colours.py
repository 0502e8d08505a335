"""Colours that an avatar gets by least squares when its training ends."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.data.subject import Subject
from persona.modules.avatar.gaussian_avatar import COLOR_EPS, GaussianAvatar
from persona.modules.lhm.sight import clean_outline
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.seen_colours import Shot, best_views, seen_colours, shown_px
from persona.systems.method import TrainedFrames
from persona.types import CAPTURED, GENERATED, Frame, Pose

_HOLD = 0.3
"""Of ``seen_colours``; with 0.1 rims of the photograph were seen as streaks from the side."""
_PHOTOS, _CANDIDATES = 8, 24
"""Most captured frames whose colours count, and most generated ones of which the best are taken."""
_SHOWN_PX = 0.05
"""Least pixels of a Gaussian that count as shown."""
log = logging.getLogger(__name__)


class SolvedColours:
    """Gives Gaussians the colours with which renders equal single frames.

    Steps of an optimiser that look at all frames end with their mean, a blur where they disagree.

    Args:
        photos: whether what the photographs show gets its colours from them. Of many captured
            frames (a video) 8 count, and of their pixels those of ``own_colour``.
        best_frames: from so many generated frames the rest gets its colours, each Gaussian from the
            frame that shows it best; 0 leaves the rest as it is.
    """

    def __init__(self, *, photos: bool, best_frames: int) -> None:
        self.photos, self.best_frames = photos, best_frames
        self.own_colour: dict[str, Float[Tensor, "1 1 h w"]] = {}
        """By the names of captured frames: 1 where they show the colour of the surface that is
        there, 0 in contact shadows and where another part is seen. Read from the subject."""

    def read(self, subject: Subject) -> None:
        """Reads which pixels of captured frames count; photographs of older versions do not tell.

        Of other subjects all pixels count: no arm's shadow is known of.
        """
        if not self.photos:
            return
        for number in subject.frame_ids(CAPTURED):
            own = subject.map(CAPTURED, "own_colour", number)
            if own is not None:
                self.own_colour[f"{CAPTURED}/{number}"] = torch.from_numpy(own)[None, None].float()
        if not self.own_colour and subject.info and subject.info.from_photo:
            log.warning(
                "%s: has no own_colours, so shadows under arms may stay as dark slots; make the "
                "subject again with scripts/preprocess.py",
                subject.root,
            )

    @torch.no_grad()
    def __call__(
        self, avatar: GaussianAvatar, renderer: GaussianRenderer, asset: str, frames: TrainedFrames
    ) -> None:
        """Changes the avatar's colours, as asked for.

        Args:
            avatar: As it is trained.
            renderer: Gaussian rasteriser.
            asset: Which of the avatar's Gaussians the frames are compared with.
            frames: Frames of the training, with their poses.
        """
        if not self.photos and not self.best_frames:
            return
        shot_of = partial(self._shot, avatar, asset)
        photos = [shot_of(*pair) for pair in frames(CAPTURED, _PHOTOS)]
        before = rgb = avatar.rgb_logit.sigmoid()
        if self.best_frames:
            rgb = self._frame_colours(renderer, shot_of, frames, photos, rgb)
        if self.photos and photos:
            rgb = seen_colours(renderer, photos, rgb, hold=_HOLD)
        if rgb is not before:
            avatar.rgb_logit.copy_(rgb.logit(COLOR_EPS))

    def _frame_colours(
        self,
        renderer: GaussianRenderer,
        shot_of: Callable[[Frame, Pose], Shot],
        frames: TrainedFrames,
        photos: Sequence[Shot],
        rgb: Float[Tensor, "n 3"],
    ) -> Float[Tensor, "n 3"]:
        """Colours in which what no photograph shows is as in the frame that shows it best.

        One view a surface in place of a mean of all is what keeps textures of scans sharp (Waechter
        et al., Let There Be Color, ECCV 2014). Frames are posed one after the other, and those that
        are chosen again: all of them at once would take much memory.
        """
        hidden = torch.ones_like(rgb[:, 0], dtype=torch.bool)
        for photo in photos:
            hidden &= shown_px(renderer, photo) < _SHOWN_PX
        shown = [
            hidden * shown_px(renderer, shot_of(*pair)) for pair in frames(GENERATED, _CANDIDATES)
        ]
        chosen = best_views(shown, self.best_frames) if shown else []
        if not chosen:
            return rgb
        best = torch.stack([shown[number] for number in chosen]).max(0)
        for number, pair in enumerate(frames(GENERATED, _CANDIDATES)):
            if number in chosen:
                own = (best.indices == chosen.index(number)) & (best.values > _SHOWN_PX)
                solved = seen_colours(renderer, [shot_of(*pair)], rgb)
                rgb = torch.where(own[:, None], solved, rgb)
        return rgb

    def _shot(self, avatar: GaussianAvatar, asset: str, frame: Frame, pose: Pose) -> Shot:
        """A frame, with the avatar as it stands in it."""
        posed, mask = avatar(pose, frame.view), frame.mask[0]
        image = clean_outline(frame.image[0].cpu(), (mask[0] > 0.5).cpu().numpy()).to(mask)
        # Colours as seen end at 1: the channel that is farthest from it tells the light.
        light = (posed.rgb / posed.albedo.clamp(min=COLOR_EPS)).amax(1, keepdim=True)
        gaussians, own = posed.gaussians(asset), self.own_colour.get(frame.name[0])
        if own is not None:
            mask = mask * F.interpolate(own.to(mask), mask.shape[1:])[0]
        return Shot(gaussians, frame.camera[0].local(), image, mask, light)
