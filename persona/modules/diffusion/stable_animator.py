"""``stable_animator``: frames by StableAnimator (arXiv 2411.17697), which also reads the face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.device import pick_device
from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.face import aligned_face, face_boxes, network_face
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.networks.face_refinement import FaceRefinement
from persona.modules.diffusion.networks.identity_net import EMBEDDING
from persona.modules.diffusion.networks.published import load_identity_net, load_stable_animator
from persona.modules.diffusion.networks.svd_sampler import SvdSampler
from persona.modules.diffusion.sampled import as_tensor, draw_clip
from persona.modules.diffusion.svd import SvdGenerator, read_svd
from persona.modules.diffusion.weights import WEIGHTS


@dataclass(kw_only=True)
class StableAnimatorGenerator(SvdGenerator):
    """Like MimicMotion, but its attention also sees tokens of the photographed face.

    Its folder holds the files of Stable Video Diffusion XT, as MimicMotion's does, and
    ``Animation/`` as its authors publish it. It was trained at 512 x 512 and 1024 x 576.

    Attributes:
        face_steps: Number of denoising steps, from the first on, that also optimise the frames so
            that their faces resemble the photograph's; each decodes the clip three times, with
            gradients.
    """

    name = "stable_animator (StableAnimator, a video diffusion model)"
    part = "stable_animator"
    licence = WEIGHTS["stable_animator"].licence
    native_fps = 30.0

    guidance: float = 3.0
    tile: int = 16
    overlap: int = 4
    face_steps: int = 0

    def smaller(self) -> str:
        """The decoder's gradients need most memory, so face steps are the first thing to reduce."""
        first = "generator.face_steps=0, " if self.face_steps else ""
        return first + super().smaller()

    def read(self, folder: Path) -> SvdSampler:
        """See ``SampledGenerator``."""
        config, vae, image_encoder = read_svd(folder)
        unet, pose_net, face_encoder = load_stable_animator(folder / "Animation", config)
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
        options = self.options(noise=0.02, decode_chunk=4)
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
        """Embedding of the photographed face; zeros if the face is not seen."""
        face = aligned_face(reference.image, reference.keypoints)
        if face is None:
            return torch.zeros(1, EMBEDDING, device=pick_device())
        with torch.no_grad():
            return sampler.recognise(network_face(face).to(pick_device()))
