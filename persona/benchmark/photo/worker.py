"""One process of the yardstick: ``python -m persona.benchmark.photo.worker JOB.yaml``."""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from persona.benchmark.photo.score import Scorer
from persona.benchmark.plan import told_in_the_last_line
from persona.commands.experiment import quiet_libraries


def main() -> None:
    """Scores the people that the file lists, one after another."""
    job = OmegaConf.load(sys.argv[1])
    quiet_libraries()
    with told_in_the_last_line():
        scorer = Scorer.of(job.config, Path(job.folder))
        for person in job.people:
            scorer(Path(person))


if __name__ == "__main__":
    main()
