"""Compiles a training's kernels in another process while the photograph is being read.

The first training on a machine compiles for half a minute on CUDA. A photograph is read on the CPU
and takes longer, so a few steps on a small synthetic person meanwhile compile the same kernels.
``python -m persona.commands.compile_ahead CONFIG.yaml`` is that process.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig, OmegaConf

from persona.commands.compose import composed
from persona.modules.cache import cache_folder, cached_file
from persona.runtime.apart import environment
from persona.runtime.cores import available_cores

SMALL = (
    "data=synthetic",
    "data.source.config.num_generated=2",
    "data.source.config.num_test=1",
    "trainer.max_steps=8",
    "trainer.enable_progress_bar=false",
    "pictures.turntable_frames=0",
    "logger=none",
)
"""A training of seconds. Kernels depend on sizes: those of frames and avatars stay."""
NICENESS = 19
"""The process runs where the photograph leaves a core idle: threads that wait for a thread which is
not running, spin."""


@contextmanager
def compiled_ahead(overrides: Sequence[str], height: int, width: int) -> Iterator[None]:
    """Within it kernels are compiled, on CUDA, unless this machine has them.

    The training compiles what this has not: nothing depends on its success.

    Args:
        overrides: Of train.yaml, other than the data.
        height: Height of the frames.
        width: Width of the frames.
    """
    if not torch.cuda.is_available():
        yield
        return
    sizes = f"data.source.config.height={height}", f"data.source.config.width={width}"
    config = composed("train", [*overrides, *SMALL, *sizes])
    done = _marker(config)
    if config.trainer.accelerator == "cpu" or done.exists():
        yield
        return
    with TemporaryDirectory(prefix="persona_") as scratch:
        job, log = Path(scratch, "config.yaml"), Path(scratch, "log.txt")
        config.subjects_dir = str(scratch)
        job.write_text(OmegaConf.to_yaml(config))
        command = [sys.executable, "-m", __name__, str(job)]
        # The synthetic person's skinning field is of no further use.
        variables = environment(0, available_cores()) | {"PERSONA_CACHE": str(scratch)}
        with (
            log.open("w") as file,
            subprocess.Popen(command, stdout=file, stderr=file, env=variables) as process,
        ):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            try:
                yield
            finally:
                process.terminate()
        if process.returncode == 0:
            with cached_file(done) as temporary:
                temporary.touch()


def _marker(config: DictConfig) -> Path:
    """A file that is there once the kernels of a configuration are compiled."""
    made_of = torch.__version__, torch.cuda.get_device_name(), OmegaConf.to_yaml(config)
    digest = hashlib.sha256(str(made_of).encode()).hexdigest()[:32]
    return cache_folder() / f"compiled-{digest}"


def main(job: Path) -> None:
    """Trains by the configuration that stands in a file, beside it."""
    from persona.commands.experiment import train  # Imports take as long as the parent's.

    train(OmegaConf.load(job), job.with_suffix(""))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
