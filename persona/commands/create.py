"""From photographs or a video to an animated avatar: preprocess, train, animate."""

import logging
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from persona.commands.compile_ahead import compiled_ahead
from persona.commands.compose import composed
from persona.commands.drive import animate_all, check_animation, check_asset, driving_motion
from persona.commands.experiment import train_system
from persona.commands.live import live_view
from persona.commands.track import check_track, track
from persona.data.io import read_image
from persona.data.layout import CAPTURED, TEXTURE_FILES
from persona.data.making import one_maker
from persona.data.numbers import whole_number
from persona.data.preprocess.colour_rules import ColourRuleAnnotator
from persona.data.preprocess.photo import SHEET_FILE, PhotoPreprocessor
from persona.data.track.folder import NPZ
from persona.data.track.stills import FOLDER, write_stills
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.diffusion.base import VideoGenerator
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator
from persona.modules.perception.annotator import PerceptionAnnotator
from persona.runtime.options import check_options, experiment_of, folder_name
from persona.systems.method import Method

log = logging.getLogger(__name__)

REPORT_MOTION = "turntable"
"""A motion that the training's report draws anyway."""
READS_ON_CPU = {TexturedMeshGenerator, PerceptionAnnotator, ColourRuleAnnotator}
"""Generators and annotators that leave the GPU alone."""
MIN_SIDE_PX = 64
"""Least side of a photograph; no person can be found in a smaller one."""


def preprocess(config: DictConfig) -> Path:
    """Writes the subject folder of ``config.photo``. Returns its path.

    Raises:
        UserError: a bad photograph or name.
    """
    root = subject_folder(config)
    preprocessor: PhotoPreprocessor = instantiate(config.preprocess)
    with one_maker(root):
        preprocessor.run(photo_list(config), root)
    print(f"look at: {root / SHEET_FILE}", flush=True)
    return root


def subject_folder(config: DictConfig) -> Path:
    """Where the subject of ``config.photo`` goes.

    Raises:
        UserError: a bad photograph or name.
    """
    check_photos(config)
    return named_folder(config)


def check_photos(config: DictConfig) -> None:
    """Reads the photographs.

    Raises:
        UserError: one is bad.
    """
    for photo in photo_list(config):
        if not Path(photo).is_file():
            raise UserError(f"{photo}: no such photo; give photo=PATH of an image file")
        height, width = read_image(photo).shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            raise UserError(
                f"{photo}: is {width} x {height} pixels; give a photo of {MIN_SIDE_PX} or more "
                "on either side"
            )


def named_folder(config: DictConfig) -> Path:
    """Where the subject of ``config.name`` goes.

    Raises:
        UserError: a bad name.
    """
    return Path(config.subjects_dir) / folder_name(config.name)


def photo_list(config: DictConfig) -> list[str]:
    """``config.photo`` as a list: there may be several photographs.

    Raises:
        UserError: the list is empty.
    """
    photos = list(config.photo) if isinstance(config.photo, ListConfig) else [config.photo]
    if not photos or photos == [None]:
        raise UserError("no photo: give photo=PATH of an image file, or photo=[A,B]")
    return [str(photo) for photo in photos]


def create(config: DictConfig, folder: Path) -> None:
    """Preprocesses, trains in ``folder``, and animates into ``folder/NAME.mp4``.

    Options and motions of later steps are checked before the long work begins. With a video, its
    best frames become the photographs, and the motion in it is animated as well.

    Raises:
        UserError: one of them is bad, or the photograph is.
    """
    named_folder(config)
    tracking = None if config.video is None else track_options(config)
    if tracking is None:
        check_photos(config)
    training = train_options(config)
    method: type[Method] = get_class(training.system.method._target_)
    if not method.trained:
        instantiate(training.system.method).check()
        config.clips.motions = []  # Generated frames are for training.
    if not method.reads_texture:
        config.preprocess.textured = False
    elif not config.preprocess.textured:
        raise UserError(
            f"preprocess.textured=false: {method.__name__} reads textures; leave that option out"
        )
    videos = [animate_options(config, motion, folder) for motion in option_list(config, "motions")]
    check_options(training)
    shorten_clips(config, training)
    live_view(training)
    check_videos(videos, training)
    if tracking is not None:
        motion = take_video(config, tracking)
        videos.append(animate_options(config, str(motion), folder))
    if REPORT_MOTION in {options.motion for options in videos}:
        training.pictures.turntable_frames = 0  # That video would be drawn twice.
    size = config.preprocess.height, config.preprocess.width
    # Larger networks would share the GPU with the process that compiles.
    readers = {get_class(part._target_) for part in (config.generator, config.annotator)}
    beside = method.trained and readers <= READS_ON_CPU
    warn_of_textures(config)
    with compiled_ahead(train_overrides(config), *size) if beside else nullcontext():
        root = preprocess(config)
    print(f"subject: {root}", flush=True)
    _, system = train_system(training, folder)
    animate_all(videos, folder, system)


def warn_of_textures(config: DictConfig) -> None:
    """Says so if a subject that other methods can use becomes one without textures."""
    root = named_folder(config)
    if not config.preprocess.textured and (root / CAPTURED / TEXTURE_FILES["texture"]).is_file():
        log.warning(
            "%s: its clothes, textures and clips are replaced by the photograph alone; to keep "
            "them for other methods, give another name=", root,
        )  # fmt: skip


def shorten_clips(config: DictConfig, training: DictConfig) -> None:
    """Lets clips have no more frames than the training looks at, and says so.

    Frames of a video model stay: they continue one another, so that fewer would show less of the
    motion, and so do those of an avatar that learns how the body has moved. Those of other
    generators are spread over the motion.

    Args:
        config: Whose ``clips.num_frames`` is reduced.
        training: Configuration of the training.
    """
    clips, steps, share = config.clips, training.trainer.max_steps, training.data.captured_ratio
    generator: type[VideoGenerator] = get_class(config.generator._target_)
    if generator.native_fps is not None or OmegaConf.select(training, "avatar.history"):
        return
    # A training by epochs, or without shares, takes every frame.
    if steps < 0 or share is None or not clips.motions or not single_frames(training):
        return
    most = max(1, math.ceil(round(steps * (1 - share) / len(clips.motions), 6)))
    if most < clips.num_frames:
        log.info(
            "clips of %d frames in place of clips.num_frames=%d: the training looks at no more",
            most, clips.num_frames,
        )  # fmt: skip
        clips.num_frames = most


def single_frames(training: DictConfig) -> bool:
    """Whether a step of the training takes one frame, of those of all splits.

    Steps of several frames hold the photograph once and are filled up with generated ones.
    """
    trainer, data = training.trainer, training.data
    on_cpu = trainer.accelerator == "cpu" or not torch.cuda.is_available()
    one_device = trainer.devices == 1 or (trainer.devices == "auto" and on_cpu)
    several = (data.batch_size, trainer.num_nodes, trainer.get("accumulate_grad_batches", 1))
    return one_device and all(count == 1 for count in several) and data.train_splits is None


def track_options(config: DictConfig) -> DictConfig:
    """The tracking's configuration of ``config.video``.

    Raises:
        UserError: a photograph is given as well, or an option or the video is bad.
    """
    if config.photo is not None:
        raise UserError("photo= and video= are both given: choose one of them")
    whole_number("stills", config.stills, low=1)
    overrides = option_list(config, "track")
    found = composed("track", overrides)
    for part in ("detector", "annotator"):
        # The person chosen for the photographs is the one to track, unless track= says otherwise.
        if not any(re.match(rf"[+~]*{part}[=.]", override) for override in overrides):
            found[part] = OmegaConf.create(OmegaConf.to_container(config[part], resolve=True))
    found.video, found.name = str(config.video), str(config.name)
    if found.body != config.body:
        raise UserError(
            "the video is tracked with another body: add \"track=['body=NAME']\" as well"
        )
    check_track(found)
    return found


def take_video(config: DictConfig, tracking: DictConfig) -> Path:
    """Tracks the video, and sets ``config.photo`` to its best frames. Returns the motion's file.

    Raises:
        UserError: nobody can be followed in it, or no frame of it can be a photograph.
    """
    root = track(tracking)
    video, _ = check_track(tracking)
    config.photo = [
        str(path) for path in write_stills(root, video, instantiate(tracking.body), config.stills)
    ]
    print(f"motion: {root}; photographs: {root / FOLDER}", flush=True)
    return root / NPZ


def train_options(config: DictConfig) -> DictConfig:
    """The training's configuration. Names and paths are set as values: Hydra parses overrides."""
    found = composed("train", [*train_overrides(config), "data=subject"])
    found.name, found.subjects_dir = str(config.name), str(config.subjects_dir)
    if not any(str(override).startswith("seed=") for override in config.train):
        found.seed = config.seed
    return found


def train_overrides(config: DictConfig) -> list[str]:
    """Overrides of train.yaml, but for the data."""
    chosen = [f"+exp={config.experiment}"]
    if config.method is not None:
        chosen = experiment_of(str(config.method), DictConfig({}))
    return [*chosen, *option_list(config, "train")]


def animate_options(config: DictConfig, motion: str, folder: Path) -> DictConfig:
    """A video's configuration."""
    found = composed("animate", option_list(config, "animate"))
    found.run, found.motion = str(folder), str(motion)
    return found


def option_list(config: DictConfig, key: str) -> list[str]:
    """A list of strings; a single string needs no brackets.

    Raises:
        UserError: it is something else.
    """
    value = config[key]
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list | ListConfig) or not all(isinstance(v, str) for v in found):
        raise UserError(f"{key}={value}: give a list, {key}=[...], of texts in quotes")
    return list(found)


def check_videos(videos: Sequence[DictConfig], training: DictConfig) -> None:
    """Reads the options and the motion of each.

    Raises:
        UserError: one of them is bad.
    """
    body: SmplxBody = instantiate(training.body)
    method: type[Method] = get_class(training.system.method._target_)
    for options in videos:
        check_animation(options)
        check_asset(options, method.assets)
        driving_motion(options, body)
