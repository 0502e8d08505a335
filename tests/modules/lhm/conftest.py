"""Fixtures with LHM's reference data."""

import pytest
import torch
from lhm_cases import published_shapes, read_case


@pytest.fixture(scope="session")
def lhm_folder(shared_data):
    folder = shared_data / "parity" / "lhm"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data at {folder}")
    return folder


@pytest.fixture(scope="session")
def lhm_case(lhm_folder):
    """A function that reads a reference case by its name."""
    return lambda name: read_case(lhm_folder, name)


@pytest.fixture(scope="session")
def lhm_keys(lhm_folder):
    """A function from a published model's name to the shape of each key."""
    return lambda name: published_shapes(lhm_folder, name)


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield
