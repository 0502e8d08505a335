"""One process of the yardstick: ``python -m persona.benchmark.photo.worker JOB.yaml``."""

import sys
import traceback
from pathlib import Path

from omegaconf import OmegaConf

from persona.benchmark.photo.score import Scorer
from persona.benchmark.plan import one_line
from persona.commands.experiment import quiet_libraries


def main() -> None:
    """Scores the people that the file lists, one after another."""
    job = OmegaConf.load(sys.argv[1])
    quiet_libraries()
    try:
        scorer = Scorer.of(job.config, Path(job.folder))
        for person in job.people:
            scorer(Path(person))
    except Exception as error:
        traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
