"""Lists the files that users must download for some parts, with their sizes and licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from persona.errors import UserError


@dataclass(frozen=True)
class WeightsFile:
    """One file that its author publishes.

    Attributes:
        path: Path inside the part's folder.
        megabytes: Approximate size; 0 for a file of a few lines.
        repository: Its repository on the Hugging Face hub.
        published: Path inside the repository; empty if it is the same as ``path``.
    """

    path: str
    megabytes: float
    repository: str
    published: str = ""

    @property
    def revision(self) -> str:
        """The commit of the repository to fetch; ``main`` if none is pinned."""
        return REVISIONS.get(self.repository, "main")

    def __str__(self) -> str:
        return f"{self.path} ({size_text(self.megabytes)})"


@dataclass(frozen=True)
class Weights:
    """All files of one part, and what their users must know.

    Attributes:
        name: Name of the part in commands.
        files: The files, all in one folder.
        licence: The licences in a sentence.
        commercial: Whether the licences allow commercial use.
        gate: What the user must accept on the hub before the download; empty for nothing.
        whole: Fetch the whole repository; ``files`` are only those whose presence is checked.
    """

    name: str
    files: tuple[WeightsFile, ...]
    licence: str
    commercial: bool
    gate: str = ""
    whole: bool = False

    @property
    def megabytes(self) -> float:
        """Size of all files together."""
        return sum(file.megabytes for file in self.files)

    def require(self, folder: str | Path | None, option: str) -> Path:
        """The folder, after checking that it has every file.

        Args:
            folder: The user's folder with the files; None if none was given.
            option: The option that sets the folder, for the error message.

        Raises:
            UserError: Files are missing.
        """
        place = Path(folder) if folder is not None else None
        missing = [f for f in self.files if place is None or not (place / f.path).is_file()]
        if place is not None and not missing:
            return place
        where = f"{option}={place}" if place else f"{option}=DIR is not given; it"
        gate = f" Gated: {self.gate}." if self.gate else ""
        raise UserError(
            f"{where} lacks {', '.join(map(str, missing))}. Licence: {self.licence}.{gate}"
            f" `python scripts/weights.py get {self.name} dir={place or 'DIR'}` fetches them"
        )


def size_text(megabytes: float) -> str:
    """A size as text with its unit."""
    if megabytes >= 100:
        return f"{megabytes / 1000:.2f} GB"
    return f"{megabytes:.1f} MB" if megabytes else "a few lines"


_SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
_SVD_1_1 = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
_SD, _VAE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse"
_CLIP = "lambdalabs/sd-image-variations-diffusers"
_CHAMP, _STABLE_ANIMATOR = "fudan-generative-ai/champ", "FrancisRing/StableAnimator"
_WAN = "Wan-AI/Wan2.2-Animate-14B-Diffusers"

REVISIONS: Mapping[str, str] = MappingProxyType({
    _SVD: "9e43909513c6714f1bc78bcb44d96e733cd242aa",
    _SVD_1_1: "043843887ccd51926e3efed36270444a838e7861",
    _SD: "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    _VAE: "31f26fdeee1355a5c34592e401dd41e45d25a493",
    _CLIP: "a2a13984e57db80adcc9e3f85d568dcccb9b29fc",
})  # fmt: skip
"""Commits of repositories whose files may change. The generators' own repositories are not pinned:
their networks' keys are compared with lists of keys, and the hub's client records beside each file
which commit it belongs to."""


def _svd_files(repository: str) -> tuple[WeightsFile, ...]:
    """Files of Stable Video Diffusion without its UNet's weights, which the generators replace."""
    return (
        WeightsFile("unet/config.json", 0.0, repository),
        WeightsFile("vae/config.json", 0.0, repository),
        WeightsFile("vae/diffusion_pytorch_model.fp16.safetensors", 196.0, repository),
        WeightsFile("image_encoder/config.json", 0.0, repository),
        WeightsFile("image_encoder/model.fp16.safetensors", 1264.0, repository),
        WeightsFile("scheduler/scheduler_config.json", 0.0, repository),
    )


def _gate(repository: str) -> str:
    return f"accept the terms at huggingface.co/{repository} and log in (`hf auth login`)"


_ANIMATION = {"unet": 6200.0, "pose_net": 0.8, "face_encoder": 228.8, "glintr100_torch": 261.0}
_CHAMP_FILES = {
    "denoising_unet": 3440.0, "reference_unet": 3440.0, "motion_module": 1820.0,
    "guidance_encoder_depth": 10.7, "guidance_encoder_normal": 10.7,
    "guidance_encoder_semantic_map": 10.7, "guidance_encoder_dwpose": 10.7,
}  # fmt: skip
_SAPIENS = "facebook/sapiens-pretrain-1b-torchscript"


def _lhm(name: str, repository: str, megabytes: float) -> Weights:
    files = (
        WeightsFile("model.safetensors", megabytes, repository),
        WeightsFile("sapiens_1b_epoch_173_torchscript.pt2", 4680.0, _SAPIENS),
    )
    licence = "LHM's weights and Sapiens' are under CC BY-NC 4.0: no commercial use"
    return Weights(name, files, licence, commercial=False)


WEIGHTS: Mapping[str, Weights] = MappingProxyType({
    weights.name: weights
    for weights in (
        Weights(
            "mimicmotion",
            (
                *_svd_files(_SVD_1_1),
                WeightsFile("MimicMotion_1-1.pth", 3050.0, "tencent/MimicMotion"),
            ),
            "MimicMotion's weights are for academic, research and education use only; Stable Video"
            " Diffusion's are under the Stability AI Community License",
            commercial=False,
            gate=_gate(_SVD_1_1),
        ),
        Weights(
            "stable_animator",
            (
                *_svd_files(_SVD),
                *(
                    WeightsFile(f"Animation/{name}.pth", size, _STABLE_ANIMATOR)
                    for name, size in _ANIMATION.items()
                ),
            ),
            "StableAnimator's weights are under Apache-2.0, its face recognition network is"
            " insightface's, for non-commercial research only; Stable Video Diffusion's are under"
            " the Stability AI Community License",
            commercial=False,
            gate=_gate(_SVD),
        ),
        Weights(
            "champ",
            (
                *(
                    WeightsFile(f"champ/{name}.pth", size, _CHAMP)
                    for name, size in _CHAMP_FILES.items()
                ),
                WeightsFile("stable-diffusion-v1-5/unet/config.json", 0.0, _SD, "unet/config.json"),
                WeightsFile("sd-vae-ft-mse/config.json", 0.0, _VAE, "config.json"),
                WeightsFile(
                    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors", 335.0, _VAE,
                    "diffusion_pytorch_model.safetensors",
                ),
                WeightsFile("image_encoder/config.json", 0.0, _CLIP),
                WeightsFile("image_encoder/pytorch_model.bin", 1216.0, _CLIP),
            ),
            "Champ's weights are under Apache-2.0; Stable Diffusion's and its image encoder's under"
            " CreativeML OpenRAIL-M, which names uses that are forbidden; the VAE's under MIT",
            commercial=True,
        ),
        Weights(
            "wan_animate",
            (
                WeightsFile("model_index.json", 0.0, _WAN),
                WeightsFile("transformer/config.json", 69000.0, _WAN),
                WeightsFile("text_encoder/config.json", 11400.0, _WAN),
                WeightsFile("image_encoder/config.json", 1264.0, _WAN),
                WeightsFile("vae/config.json", 508.0, _WAN),
                WeightsFile("scheduler/scheduler_config.json", 0.0, _WAN),
            ),
            "Wan2.2-Animate is under Apache-2.0",
            commercial=True,
            whole=True,
        ),
        _lhm("lhm_mini", "3DAIGC/LHM-MINI", 2776.0),
        _lhm("lhm_500m", "3DAIGC/LHM-500M", 3831.0),
        _lhm("lhm_1b", "3DAIGC/LHM-1B", 6853.0),
    )
})  # fmt: skip
"""The weights of all parts, by name."""
