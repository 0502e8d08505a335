"""A run that the tests of the commands share."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_settings, subjects) -> dict:
    """``folder`` and ``metrics`` of a short run, for tests that only look at it."""
    from persona.commands.experiment import train  # Its shapes are checked if imported by now.

    folder = tmp_path_factory.mktemp("trained") / "run"
    report = "pictures.num_images=2", "pictures.turntable_frames=2"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*tiny_settings, f"subjects_dir={subjects}", *report])
    return {"folder": folder, "metrics": train(config, folder)}
