"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Tests must not ask a network for anything.
os.environ.setdefault("WANDB_MODE", "offline")
# Without a GPU, Triton's kernels run in its interpreter; read when Triton is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--store-losses`` rewrites what the gate of stored losses compares with."""
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
