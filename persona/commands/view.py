"""A live viewer of a run's avatar in the browser."""

import logging
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.commands.beside import Beside
from persona.commands.drive import check_asset
from persona.commands.experiment import load_config, load_system
from persona.commands.puppet import Puppet
from persona.commands.viewer import Viewer, check_port
from persona.data.datamodule import SubjectDataModule
from persona.data.export.extras import extra
from persona.data.frames import FrameDataset
from persona.data.numbers import whole_number
from persona.errors import UserError
from persona.modules.device import pick_device

log = logging.getLogger(__name__)
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
    beside = None
    try:
        beside = Beside(system, scored_frames(Path(config.run)))
    except UserError as error:  # The avatar itself needs no subject.
        log.warning("no truth beside the render: %s", error)
    viewer = Viewer(viser, puppet, config.host, config.port, beside)
    print(f"viewer: http://{config.host}:{config.port} (Ctrl-C ends it)", flush=True)
    while True:
        viewer.step()
        time.sleep(IDLE_S)


def scored_frames(run: Path) -> FrameDataset:
    """The frames on which a run was tested.

    Raises:
        UserError: the subject's folder is gone or damaged.
    """
    try:
        data: SubjectDataModule = instantiate(load_config(run).data)
        return data.test_frames
    except UserError as error:
        raise UserError(f"{run}: its subject cannot be shown: {error}") from error
