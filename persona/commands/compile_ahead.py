"""Compiles a training's kernels in another process while the photograph is being read.

The first training on a machine compiles for half a minute on CUDA. A photograph is read on the CPU
and takes longer, so a few steps on a small synthetic person meanwhile compile the same kernels.
``python -m persona.commands.compile_ahead CONFIG.yaml`` is that process.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig, OmegaConf

from persona.commands.compose import composed
from persona.errors import UserError
from persona.modules.cache import cache_folder, cached_file
from persona.runtime.apart import environment
from persona.runtime.cores import available_cores

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
SMALL = (
    "data=synthetic",
    "data.source.config.num_generated=2",
    "data.source.config.num_test=1",
    "trainer.max_steps=8",
    "trainer.enable_progress_bar=false",
    "pictures.turntable_frames=0",
    "logger=none",
)
"""A training of seconds. Kernels depend on sizes: those of frames and avatars stay, but for the
field's."""
FIELD_RESOLUTION = 32
"""Of the skinning field, whose building took a third of the time until the first kernel. Its size
is no constant of a kernel, but whether 16 divides it is."""
NICENESS = 19
"""The process runs where the photograph leaves a core idle: threads that wait for a thread which is
not running, spin."""


@contextmanager
def compiled_ahead(
    overrides: Sequence[str], height: int, width: int, to_the_end: bool = False
) -> Iterator[None]:
    """Within it kernels are compiled, on CUDA, unless this machine has them.

    The training compiles what this has not: nothing depends on its success.

    Args:
        overrides: Of train.yaml, other than the data.
        height: Height of the frames.
        width: Width of the frames.
        to_the_end: Wait for all of them, and warn if it fails; else the block's end stops it.
    """
    if not torch.cuda.is_available():
        yield
        return
    sizes = f"data.source.config.height={height}", f"data.source.config.width={width}"
    config = composed("train", [*overrides, *SMALL, *sizes])
    chosen = config.avatar.get("field_resolution", 0)
    if chosen > FIELD_RESOLUTION and chosen % 16 == 0:
        config.avatar.field_resolution = FIELD_RESOLUTION
    done = _marker(config)
    if config.trainer.accelerator == "cpu" or done.exists():
        yield
        return
    with TemporaryDirectory(prefix="persona_") as scratch:
        job, printed = Path(scratch, "config.yaml"), Path(scratch, "log.txt")
        config.subjects_dir = str(scratch)
        job.write_text(OmegaConf.to_yaml(config))
        command = [sys.executable, "-m", __name__, str(job)]
        # The synthetic person's skinning field is of no further use.
        variables = environment(0, available_cores()) | {"PERSONA_CACHE": str(scratch)}
        with (
            printed.open("w") as file,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=variables
            ) as process,
        ):
            try:
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
                yield
                if to_the_end:
                    process.wait()
            finally:
                process.terminate()
        if to_the_end and process.returncode:
            log.warning("kernels for this GPU were not compiled: %s", printed.read_text()[-500:])
        _keep(Path(scratch), done if process.returncode == 0 else None)


def _keep(scratch: Path, done: Path | None) -> None:
    """Keeps CUDA's kernels, those of a process that was cut short too, and marks what is done."""
    try:
        for kernel in scratch.glob("*.cubin"):
            with cached_file(cache_folder() / kernel.name) as temporary:
                shutil.copyfile(kernel, temporary)
        if done is not None:
            with cached_file(done) as temporary:
                temporary.touch()
    except UserError as error:
        log.warning("kernels are compiled anew next time: %s", error)


def _marker(config: DictConfig) -> Path:
    """A file that is there once a configuration's kernels, as they now are, are compiled.

    It lies beside Triton's, so that it goes when they go.
    """
    digest = hashlib.sha256(OmegaConf.to_yaml(config).encode())
    digest.update(f"{torch.__version__} {torch.cuda.get_device_name()} {cache_folder()}".encode())
    for pattern in ("*_triton.py", "*.cu"):
        for source in sorted(PACKAGE.rglob(pattern)):
            digest.update(source.read_bytes())
    folder = os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"
    return Path(folder) / f"persona-{digest.hexdigest()[:32]}"


def main(job: Path) -> None:
    """Trains by the configuration that stands in a file, beside it; ends when its parent does."""
    from persona.commands.experiment import train  # Imports take as long as the parent's.

    def wait_for_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # Without the stream's lock, which Python's exit takes.
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    train(OmegaConf.load(job), job.with_suffix(""))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
