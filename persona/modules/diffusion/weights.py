"""What the parts that need downloaded files need: which files, how large, under which licence."""

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
        path: Inside the part's folder.
        megabytes: About; 0 for a file of a few lines.
        repository: On the Hugging Face hub.
        published: Path inside the repository; empty for the same one.
    """

    path: str
    megabytes: float
    repository: str
    published: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({size_text(self.megabytes)})"


@dataclass(frozen=True)
class Weights:
    """All files of one part, and what their users must know.

    Attributes:
        name: Of the part, in commands.
        files: Make up one folder.
        licence: In a sentence.
        commercial: Whether the licences allow commercial use.
        gate: What must be accepted on the hub before the files can be had; empty for nothing.
    """

    name: str
    files: tuple[WeightsFile, ...]
    licence: str
    commercial: bool
    gate: str = ""

    @property
    def megabytes(self) -> float:
        """Of all files."""
        return sum(file.megabytes for file in self.files)

    def require(self, folder: str | Path | None, option: str) -> Path:
        """The folder, with every file there.

        Args:
            folder: Where the user has the files; None where none was named.
            option: Names the folder, for the message.

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
    """With a unit, for people."""
    if megabytes >= 100:
        return f"{megabytes / 1000:.2f} GB"
    return f"{megabytes:.1f} MB" if megabytes else "a few lines"


_SVD = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
_SVD_FILES = (
    WeightsFile("unet/config.json", 0.0, _SVD),
    WeightsFile("vae/config.json", 0.0, _SVD),
    WeightsFile("vae/diffusion_pytorch_model.fp16.safetensors", 196.0, _SVD),
    WeightsFile("image_encoder/config.json", 0.0, _SVD),
    WeightsFile("image_encoder/model.fp16.safetensors", 1264.0, _SVD),
    WeightsFile("scheduler/scheduler_config.json", 0.0, _SVD),
)
_SVD_GATE = f"accept the terms at huggingface.co/{_SVD} and log in (`hf auth login`)"
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
            (*_SVD_FILES, WeightsFile("MimicMotion_1-1.pth", 3050.0, "tencent/MimicMotion")),
            "MimicMotion's weights are for academic, research and education use only; Stable Video"
            " Diffusion's are under the Stability AI Community License",
            commercial=False,
            gate=_SVD_GATE,
        ),
        _lhm("lhm_mini", "3DAIGC/LHM-MINI", 2776.0),
        _lhm("lhm_500m", "3DAIGC/LHM-500M", 3831.0),
        _lhm("lhm_1b", "3DAIGC/LHM-1B", 6853.0),
    )
})  # fmt: skip
"""By name."""
