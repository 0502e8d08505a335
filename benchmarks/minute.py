"""Where the time of ``scripts/create.py`` goes: ``python benchmarks/minute.py photo=P name=N``.

Takes the options of conf/create.yaml. Writes ``stages.json`` into the run's folder and prints it as
a table, with the wall-clock seconds and the CPU seconds of each stage, without those of stages
inside it, and when each video was there, seconds from the start. The first row is the start of
Python and all imports. Caches are left as they are: to
time the first run of a fresh machine, point PERSONA_CACHE, NUMBA_CACHE_DIR and TRITON_CACHE_DIR at
empty folders.
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from persona.cli import launch, one_line_errors, output_folder
from persona.data.io import write_json

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
STARTED = time.clock_gettime(_CLOCK)
"""When this module was loaded; ``before`` gives the time that Python took until then."""


def before() -> float:
    """Seconds from the start of this process to ``STARTED``, on Linux; 0 elsewhere."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return 0.0
    ticks = int(stat.read_text().rsplit(")", 1)[1].split()[19])
    return STARTED - ticks / 100


def elapsed() -> float:
    """Seconds since the start of this process."""
    return time.clock_gettime(_CLOCK) - STARTED + before()


class Stages:
    """Times of named stages without those inside them, in the order in which they first began."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self.ready: dict[str, float] = {}
        """When each video was there, seconds from the start."""
        self._open: list[str] = []
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        # Not imported above: persona first says how its threads wait, as for create.py.
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _turn(self) -> None:
        """Adds the time since the last call to the innermost open stage."""
        now = self._now()
        own = self.times.setdefault(self._open[-1] if self._open else "rest", [0.0, 0.0])
        for place in range(2):
            own[place] += now[place] - self._last[place]
        self._last = now

    def timed(self, owner: object, attribute: str, name: str) -> None:
        """Replaces a function or method by one whose time counts for the stage ``name``."""
        plain: Callable = getattr(owner, attribute)

        @functools.wraps(plain)
        def call(*args, **kwargs):
            self._turn()
            self._open.append(name)
            self.times.setdefault(name, [0.0, 0.0])
            try:
                return plain(*args, **kwargs)
            finally:
                self._turn()
                self._open.pop()

        setattr(owner, attribute, call)

    def finished(self) -> dict[str, list[float]]:
        """Wall-clock and CPU seconds by stage."""
        self._turn()
        return self.times


def watch(stages: Stages) -> None:
    """Times the stages of ``create``."""
    import lightning as L

    from persona.commands import create, drive, experiment
    from persona.data.preprocess import photo
    from persona.data.preprocess.clip import ClipMaker
    from persona.data.preprocess.dresser import Dresser
    from persona.data.preprocess.prior import TexturePrior
    from persona.modules.body.skinning_field import SkinningField
    from persona.systems.fit import Fit

    plain = drive.animate

    @functools.wraps(plain)
    def animate(*args, **kwargs) -> Path:
        video = plain(*args, **kwargs)
        stages.ready[video.stem] = elapsed()
        return video

    drive.animate = animate
    preprocessor = photo.PhotoPreprocessor
    stages.timed(photo, "read_sight", "person found, parts read")
    stages.timed(preprocessor, "_fit", "body fitted")
    stages.timed(Dresser, "__call__", "clothing")
    stages.timed(preprocessor, "_textures", "texture unwrapped and filled")
    stages.timed(TexturePrior, "__call__", "prior of unseen sides")
    stages.timed(photo, "write_sheet", "sheet")
    stages.timed(ClipMaker, "__call__", "clips")
    stages.timed(SkinningField, "build", "skinning field")
    stages.timed(Fit, "setup", "avatar built")
    stages.timed(experiment, "test", "tests")
    stages.timed(L.Trainer, "fit", "steps")
    stages.timed(experiment, "write_results", "pictures")
    stages.timed(create, "animate_all", "videos")
    stages.timed(create, "preprocess", "preprocess, rest")
    stages.timed(create, "train_system", "training, rest")


def table(times: dict[str, list[float]]) -> Table:
    """A table with a row per stage, and their sum."""
    shown = Table("stage", "s", "CPU s")
    total = [sum(own[place] for own in times.values()) for place in range(2)]
    for name, own in [*times.items(), ("all", total)]:
        shown.add_row(name, *(f"{value:.1f}" for value in own))
    return shown


@hydra.main(config_path="../conf", config_name="create", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Makes an avatar as scripts/create.py does, and times its stages."""
    from persona.commands.create import create

    stages = Stages()
    watch(stages)
    imports = {"start and imports": [elapsed(), time.process_time()]}
    folder = output_folder()
    create(config, folder)
    times = imports | stages.finished()
    import torch  # After persona, as in ``Stages``.

    found: dict[str, object] = {"threads": torch.get_num_threads(), "ready_s": stages.ready}
    found["stages"] = times
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        found["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
    write_json(folder / "stages.json", found)
    console = Console()
    console.print(table(times))
    print({key: value for key, value in found.items() if key != "stages"})


if __name__ == "__main__":
    launch(main)
