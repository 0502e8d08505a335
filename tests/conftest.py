"""Fixtures for all tests."""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

# Only fixtures import the package: shapes are checked in modules that are imported after this file.
if TYPE_CHECKING:
    from persona.data.datamodule import SubjectDataModule
    from persona.modules.body.smplx_body import SmplxBody
    from persona.systems.fit import Fit

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TINY = [
    "data=subject", "name=tiny", "logger=none", "metric.lpips_net=null", "avatar.levels=0",
    "avatar.field_resolution=16", "avatar.field_steps=5", "avatar.triplane_resolution=8",
    "renderer=cpu", "trainer.accelerator=cpu", "pictures.num_images=1",
    "pictures.turntable_frames=0",
    "pictures.turntable_height=48", "trainer.max_steps=4",
]  # fmt: skip

# Tests must not use the network.
os.environ.setdefault("WANDB_MODE", "offline")
# Without a GPU, Triton's kernels run in its interpreter. Triton reads this when first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _remembered(load: Callable[..., ConfigResult]) -> Callable[..., ConfigResult]:
    """Reads each file of conf/ once: hundreds of tests compose, and a fifth of that is parsing."""
    read: dict[tuple[str, int, int], ConfigResult] = {}

    def loaded(source: FileConfigSource, config_path: str) -> ConfigResult:
        path = Path(source.path, source._normalize_file_name(config_path))
        if not path.is_file():
            return load(source, config_path)
        state = path.stat()
        key = str(path), state.st_mtime_ns, state.st_size
        if key not in read:
            read[key] = load(source, config_path)
        return deepcopy(read[key])

    return loaded


FileConfigSource.load_config = _remembered(FileConfigSource.load_config)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--store-losses`` rewrites the losses that ``test_stored_losses.py`` compares with."""
    parser.addoption("--store-losses", action="store_true", help="rewrite stored_losses.json")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data beside the checkout; a public clone has none."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference data at {SHARED}")
    return SHARED


@pytest.fixture
def torch_home(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TORCH_HOME with the SqueezeNet weights."""
    home = shared_data / "torch_home"
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def body() -> "SmplxBody":
    """The packaged body."""
    from persona.modules.body.smplx_body import SmplxBody

    return SmplxBody()


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory, body: "SmplxBody") -> Path:
    """Folder with the subject ``tiny``: 64 x 48 pixels, 4 + 4 generated and 2 test frames."""
    from persona.data.synthetic.config import SyntheticConfig
    from persona.data.synthetic.subject import make_synthetic_subject

    root = tmp_path_factory.mktemp("subjects")
    config = SyntheticConfig(
        height=64, width=48, num_generated=4, num_test=2, texture_size=128, patch_size=32
    )
    make_synthetic_subject(root / "tiny", body, config)
    return root


@pytest.fixture(scope="session")
def tiny_settings() -> list[str]:
    """Overrides that make the demo tiny."""
    return ["+exp=demo", *TINY]


@pytest.fixture(scope="session")
def seen_system(tiny_settings: list[str]) -> "Fit":
    """An untrained system; its avatar has colours by position and pose-driven offsets."""
    from hydra.utils import instantiate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=tiny_settings)
    torch.manual_seed(0)
    made = instantiate(config.system)
    made.build(made.body.zero_identity(), num_frames=1)
    with torch.no_grad():
        made.avatar.rgb_logit.copy_(3 * made.avatar.template.vertices)
        made.avatar.offsets.triplane.planes.normal_()
    return made.eval()


@pytest.fixture
def tiny(subjects: Path):
    """Composes the demo on the tiny subject, with the given overrides."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            names = ["+exp=demo", *TINY, f"subjects_dir={subjects}", *overrides]
            return compose("train", overrides=names)

    return composed


@pytest.fixture
def command(subjects: Path) -> Callable[..., list[str]]:
    """The command line that runs what ``tiny`` composes in a process of its own."""

    def built(*overrides: str) -> list[str]:
        names = ["+exp=demo", *TINY, f"subjects_dir={subjects}", *overrides]
        return [sys.executable, str(ROOT / "train.py"), *names]

    return built


@pytest.fixture
def built():
    """Builds a configuration's system in its state before the first step; returns it and its data.

    For tests that need no run: nothing is trained, tested or written.
    """
    from hydra.utils import instantiate

    def build(config: DictConfig) -> tuple["Fit", "SubjectDataModule"]:
        torch.manual_seed(config.seed)
        system, data = instantiate(config.system), instantiate(config.data)
        system.trainer = SimpleNamespace(
            datamodule=data, world_size=1, accumulate_grad_batches=1, is_global_zero=True,
            estimated_stepping_batches=config.trainer.max_steps, global_step=0,
        )  # fmt: skip
        system.setup("fit")
        system.train().avatar.begin_step()
        return system, data

    return build
