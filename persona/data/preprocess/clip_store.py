"""Frames of a video model's clips, kept until their subject is complete, made on all GPUs.

A clip takes minutes of a GPU, so finished clips of a killed run are reused.
"""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.making import whole_folder
from persona.errors import UserError
from persona.modules.diffusion.base import Controls, Reference, VideoGenerator, generate
from persona.modules.threads import use_threads

FRAMES_FILE = "frames.npy"


@dataclass(frozen=True)
class Job:
    """All that a clip's frames depend on.

    Attributes:
        generator: Makes it.
        reference: The photograph.
        controls: What it is to show.
        seed: Seed of whatever is drawn at random.
    """

    generator: VideoGenerator
    reference: Reference
    controls: Controls
    seed: int

    @property
    def digest(self) -> str:
        """Hash of it."""
        kind = type(self.generator)
        # Offloading changes no frame.
        settings = sorted((k, v) for k, v in vars(self.generator).items() if k != "offload")
        found = hashlib.sha256(f"{kind.__module__}.{kind.__name__} {settings} {self.seed}".encode())
        # Weights have gigabytes, so their files are identified by size and time, as make does.
        for path in sorted(self.generator.weight_files()):
            state = path.stat()
            found.update(f"{path.name} {state.st_size} {state.st_mtime_ns}".encode())
        pose = {f"pose {name}": value.numpy() for name, value in vars(self.controls.pose).items()}
        photo = dict(vars(self.reference))
        if (fitted := photo.pop("fitted")) is not None:
            for part in (fitted.identity, fitted.pose, fitted.camera):
                tensors = {k: v for k, v in vars(part).items() if isinstance(v, Tensor)}
                photo |= {f"{type(part).__name__} {k}": v.numpy() for k, v in tensors.items()}
        # Maps that only the gate uses do not change frames either.
        wanted = self.generator.control_names | {"mask"}
        maps = {k: v for k, v in self.controls.maps.items() if k in wanted}
        seen = photo | maps | pose
        for name, values in sorted(seen.items()):
            found.update(f"{name} {values.shape} {values.dtype}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()[:16]

    def frames(self) -> UInt8[ndarray, "n h w c"]:
        """Makes them."""
        return generate(self.generator, self.reference, self.controls, seed=self.seed)


class ClipStore:
    """Frames of finished clips beside a subject's folder.

    Args:
        root: Folder of the subject, whose own folder is made anew by each run.
    """

    def __init__(self, root: Path):
        self.folder = root.with_name(f".{root.name}.clips")

    def frames(self, job: Job) -> UInt8[ndarray, "n h w c"]:
        """A clip's frames: the kept ones, or new ones, which are then kept."""
        path = self.folder / job.digest
        if not (path / FRAMES_FILE).is_file():
            made = job.frames()
            with whole_folder(path) as folder:
                folder.mkdir(parents=True)
                np.save(folder / FRAMES_FILE, made)
        return np.load(path / FRAMES_FILE)

    def fill(self, jobs: Sequence[Job], gpus: Sequence[str]) -> None:
        """Makes the clips that are not there, each GPU one at a time in a process of its own.

        Args:
            jobs: Clips.
            gpus: What ``CUDA_VISIBLE_DEVICES`` calls each.

        Raises:
            UserError: A clip's own, or one of its processes was killed.
        """
        absent = [job for job in jobs if not (self.folder / job.digest / FRAMES_FILE).is_file()]
        if len(absent) < 2:
            return
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    ProcessPoolExecutor(1, mp.get_context("spawn"), _use_gpu, (gpu, len(gpus)))
                )
                for gpu in gpus[: len(absent)]
            ]
            made = [
                workers[number % len(workers)].submit(_keep, self, job)
                for number, job in enumerate(absent)
            ]
            try:
                for each in made:
                    each.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that made a clip was killed, perhaps for want of memory; the same "
                    "command goes on with the clips that are finished"
                ) from error
            finally:
                for each in made:
                    each.cancel()

    def forget(self) -> None:
        """Deletes the kept frames, once the complete subject holds its clips."""
        shutil.rmtree(self.folder, ignore_errors=True)


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls each GPU that this process may use."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return shown.split(",")[:count] if shown else list(map(str, range(count)))


def _use_gpu(name: str, processes: int) -> None:
    """Starts a process with one GPU; must run before it uses CUDA."""
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    use_threads(max(1, torch.get_num_threads() // processes))


def _keep(store: ClipStore, job: Job) -> None:
    store.frames(job)
