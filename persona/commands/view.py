"""A live viewer of a run's avatar in the browser."""

import time
from pathlib import Path

from omegaconf import DictConfig

from persona.commands.drive import check_asset
from persona.commands.experiment import load_system
from persona.commands.puppet import Puppet
from persona.commands.viewer import Viewer, check_port
from persona.data.export.extras import extra
from persona.data.numbers import whole_number
from persona.modules.device import pick_device

IDLE_S = 0.02


def view(config: DictConfig) -> None:
    """Serves the viewer until it is interrupted.

    Raises:
        UserError: a bad option or run folder, viser is missing, or the port is taken.
    """
    whole_number("port", config.port, low=1, high=65535)
    viser = extra("viser", "viewer")
    check_port(config.host, config.port)
    system = load_system(Path(config.run), pick_device("cpu"))
    check_asset(config, system.assets)
    puppet = Puppet(system, config.asset)
    if config.motion is not None:
        puppet.load(str(config.motion))
    viewer = Viewer(viser, puppet, config.host, config.port)
    print(f"viewer: http://{config.host}:{config.port} (Ctrl-C ends it)", flush=True)
    while True:
        viewer.step()
        time.sleep(IDLE_S)
