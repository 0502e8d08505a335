"""Fixtures of the motion tests."""

import pytest
from skeletons import person

from persona.data.motion.target import TargetSkeleton
from persona.modules.body.smplx_body import SmplxBody


@pytest.fixture(scope="session")
def target() -> TargetSkeleton:
    return person()


@pytest.fixture(scope="session")
def body() -> SmplxBody:
    return SmplxBody()
