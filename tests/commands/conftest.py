"""A trained run that the tests of the commands share."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_settings, subjects) -> dict:
    """``folder``, ``metrics`` and ``system`` of a short run; tests must not change them."""
    from persona.commands.experiment import (
        train_system,
    )  # Its shapes are checked if imported by now.

    folder = tmp_path_factory.mktemp("trained") / "run"
    report = "pictures.num_images=2", "pictures.turntable_frames=2"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*tiny_settings, f"subjects_dir={subjects}", *report])
    metrics, system = train_system(config, folder)
    return {"folder": folder, "metrics": metrics, "system": system}
