"""Tiny datasets, which are written once per session."""

import shutil
from pathlib import Path

import pytest
from tiny_datasets import write_exavatar, write_neuman, write_xhumans


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, body) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    write_neuman(root / "neuman", body)
    write_xhumans(root / "xhumans", body)
    write_exavatar(root / "exavatar", body)
    return root


@pytest.fixture
def datasets(pristine, tmp_path) -> Path:
    """A copy that a test may damage: ``neuman/bike``, ``xhumans/00028`` and ``exavatar/me``."""
    return Path(shutil.copytree(pristine, tmp_path / "datasets"))
