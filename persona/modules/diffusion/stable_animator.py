"""``stable_animator``: frames by StableAnimator (arXiv 2411.17697), which knows the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.device import pick_device
from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.face import aligned_face, face_boxes, network_face
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.networks.base_models import (
    check_schedule,
    load_image_encoder,
    load_temporal_vae,
    read_config,
)
from persona.modules.diffusion.networks.face_refinement import FaceRefinement
from persona.modules.diffusion.networks.identity_net import EMBEDDING
from persona.modules.diffusion.networks.published import load_identity_net, load_stable_animator
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.sampled import SampledGenerator, as_tensor, draw_clip
from persona.modules.diffusion.tiles import anchored_tiles
from persona.modules.diffusion.weights import WEIGHTS


@dataclass(kw_only=True)
class StableAnimatorGenerator(SampledGenerator[SvdSampler]):
    """As MimicMotion, with tokens of the photographed face in its attention.

    Its folder holds Stable Video Diffusion XT's files as MimicMotion's does, and ``Animation/`` as
    its authors publish it. Sizes are multiples of 64; it was trained at 512 x 512 and 1024 x 576.

    Attributes:
        tile: Frames that the network sees at once; memory grows with it.
        overlap: Of tiles in a longer clip; they share one frame fewer.
        face_steps: Denoising steps, from the first, in which frames are moved until their faces
            resemble the photograph's; each decodes the clip three times, with gradients.
    """

    name = "stable_animator (StableAnimator, a video diffusion model)"
    part = "stable_animator"
    licence = WEIGHTS["stable_animator"].licence
    needs = frozenset({KEYPOINTS})
    size_multiple = 64
    native_fps = 30.0

    size: Sequence[int] = (1024, 576)
    steps: int = 25
    guidance: float = 3.0
    tile: int = 16
    overlap: int = 4
    face_steps: int = 0

    def check(self) -> None:
        """See ``SampledGenerator``."""
        anchored_tiles(self.tile + 1, self.tile, self.overlap)
        super().check()

    def smaller(self) -> str:
        """Gradients of the decoder need most."""
        first = "generator.face_steps=0, " if self.face_steps else ""
        return f"{first}a generator.tile below {self.tile}, {super().smaller()}"

    def read(self, folder: Path) -> SvdSampler:
        """See ``SampledGenerator``."""
        check_schedule(folder / "scheduler/scheduler_config.json")
        unet, pose_net, face_encoder = load_stable_animator(
            folder / "Animation", read_config(folder / "unet/config.json")
        )
        vae = load_temporal_vae(folder / "vae")
        image_encoder = load_image_encoder(folder / "image_encoder")
        identity = load_identity_net(folder / "Animation/glintr100_torch.pth")
        return SvdSampler(unet, pose_net, vae, image_encoder, face_encoder, identity)

    def sample(
        self,
        sampler: SvdSampler,
        reference: Reference,
        controls: Controls,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """See ``SampledGenerator``."""
        driven = controls.maps[KEYPOINTS]
        placed = align_reference(reference, driven, self.frame_size)
        face = self._embedding(sampler, reference)
        options = SvdOptions(
            tile=self.tile,
            overlap=self.overlap,
            steps=self.steps,
            guidance=(self.guidance, self.guidance),
            noise=0.02,
            decode_chunk=4,
        )
        refine = None
        if self.face_steps and face.any():
            boxes = face_boxes(driven, self.frame_size)
            refine = FaceRefinement(
                sampler.decode_chunk, sampler.recognise, face, boxes, self.face_steps
            )
        return sampler(
            as_tensor(placed.image), draw_clip(driven, self.frame_size), options,
            generator=generator, face=face, refine=refine,
        )  # fmt: skip

    def _embedding(self, sampler: SvdSampler, reference: Reference) -> Float[Tensor, "1 512"]:
        """Of the photographed face, zeros where it is not seen."""
        face = aligned_face(reference.image, reference.keypoints)
        if face is None:
            return torch.zeros(1, EMBEDDING, device=pick_device())
        with torch.no_grad():
            return sampler.recognise(network_face(face).to(pick_device()))
