"""Fixtures of the motion tests."""

import pytest
from skeletons import person

from persona.data.motion.target import TargetSkeleton


@pytest.fixture(scope="session")
def target() -> TargetSkeleton:
    return person()
