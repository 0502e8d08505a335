"""From a photograph to an animated avatar: preprocess, train, animate."""

from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.data.preprocess.photo import SHEET_FILE, PhotoPreprocessor
from persona.errors import UserError
from persona.systems.drive import animate
from persona.systems.experiment import train


def preprocess(config: DictConfig) -> Path:
    """Writes the subject folder of ``config.photo``. Returns its path.

    Raises:
        UserError: a bad photograph or name.
    """
    if not Path(config.photo).is_file():
        raise UserError(f"{config.photo}: no such photo; give photo=PATH of an image file")
    if not config.name or Path(config.name).name != config.name:
        raise UserError(f"name={config.name} cannot be a folder's name; use letters and digits")
    root = Path(config.subjects_dir) / config.name
    preprocessor: PhotoPreprocessor = instantiate(config.preprocess)
    preprocessor.run(config.photo, root)
    print(f"look at: {root / SHEET_FILE}", flush=True)
    return root


def create(config: DictConfig, folder: Path) -> None:
    """Preprocesses, trains in ``folder``, and animates into ``folder/NAME.mp4``."""
    root = preprocess(config)
    print(f"subject: {root}", flush=True)
    overrides = [
        f"+exp={config.experiment}",
        "data=subject",
        f"name={config.name}",
        f"subjects_dir={config.subjects_dir}",
        f"seed={config.seed}",
        *config.train,
    ]
    train(composed("train", overrides), folder)
    for motion in config.motions:
        options = composed("animate", [f"run={folder}", f"motion={motion}", *config.animate])
        print(f"video: {animate(options, folder)}", flush=True)


def composed(name: str, overrides: list[str]) -> DictConfig:
    """Another entry point's configuration, from the same folder as the running one's."""
    if not GlobalHydra.instance().is_initialized():
        raise RuntimeError("needs a running Hydra application")
    return compose(name, overrides=list(overrides))
