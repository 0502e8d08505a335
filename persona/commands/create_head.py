"""From a portrait to a head that moves: preprocess, train, animate."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress

from persona.commands.compose import composed
from persona.commands.create import animate_options, check_videos, option_list
from persona.commands.drive import animate_all
from persona.commands.experiment import train_system
from persona.data.heads.portrait import SHEET_FILE, PortraitPreprocessor
from persona.data.making import one_maker
from persona.errors import UserError
from persona.runtime.options import check_options, folder_name


def preprocess_head(config: DictConfig) -> Path:
    """Writes the subject folder of ``config.portrait``. Returns its path.

    Raises:
        UserError: a bad portrait or name.
    """
    root, portrait = head_folder(config), Path(str(config.portrait))
    preprocessor: PortraitPreprocessor = instantiate(config.preprocess)
    with one_maker(root), Progress(transient=True) as progress:
        task = progress.add_task("fitting the head", total=preprocessor.steps)
        preprocessor.run(portrait, root, lambda steps: progress.advance(task, steps))
    print(f"look at: {root / SHEET_FILE}", flush=True)
    return root


def head_folder(config: DictConfig) -> Path:
    """Where the head of ``config.portrait`` goes.

    Raises:
        UserError: no such portrait, or a bad name.
    """
    if not Path(str(config.portrait)).is_file():
        raise UserError(f"{config.portrait}: no such portrait; give portrait=PATH of an image file")
    return Path(config.subjects_dir) / folder_name(config.name)


def create_head(config: DictConfig, folder: Path) -> None:
    """Preprocesses, trains in ``folder``, and animates into ``folder/NAME.mp4``.

    Options and motions of later steps are checked before the long work begins.

    Raises:
        UserError: one of them is bad, or the portrait is.
    """
    head_folder(config)
    training = composed("train", [f"+exp={config.experiment}", *option_list(config, "train")])
    training.name, training.subjects_dir = str(config.name), str(config.subjects_dir)
    if not any(str(override).startswith("seed=") for override in config.train):
        training.seed = config.seed
    videos = [animate_options(config, motion, folder) for motion in option_list(config, "motions")]
    check_options(training)
    check_videos(videos, training)
    print(f"subject: {preprocess_head(config)}", flush=True)
    _, system = train_system(training, folder)
    animate_all(videos, folder, system)
