"""Makes the subjects of a benchmark side by side.

``python -m persona.benchmark.prepare FILE`` makes the one whose data settings are in FILE.
"""

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.data.layout import SUBJECT_FILE
from persona.runtime.apart import environment, run_apart


def prepare_subjects(configs: Iterable[DictConfig], jobs: int) -> None:
    """Makes the subjects that are not there, each in a process of its own.

    If one cannot be made, the next code that needs it tries again and reports the error.

    Args:
        configs: of train.py.
        jobs: processes at a time; below two nothing is done.
    """
    absent = [c for c in configs if not (Path(c.data.root) / SUBJECT_FILE).exists()]
    jobs = min(jobs, len(absent))
    if jobs < 2:
        return
    with TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for i, config in enumerate(absent):
            file = Path(folder) / f"{i}.yaml"
            file.write_text(OmegaConf.to_yaml(config.data, resolve=True))
            log, variables = file.with_suffix(".txt"), environment(i % jobs, jobs)
            pool.submit(run_apart, __name__, file, log, variables)


def main() -> None:
    """Makes one subject."""
    instantiate(OmegaConf.load(sys.argv[1])).prepare_data()


if __name__ == "__main__":
    main()
