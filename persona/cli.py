"""What the entry points share: one-line errors and run folders that all ranks agree on."""

import functools
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode

from persona.errors import UserError

GRACE_S = 3.0
"""How long a process waits with an error that is everyone's: one of them says it."""


def stamp_run() -> None:
    """Fixes the run's time stamp before Hydra starts.

    Lightning's launcher starts every rank as its own process with its own Hydra: through the
    environment they agree on one folder. Under torchrun no process is first: the user names it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and "RUN_STAMP" not in os.environ:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(GRACE_S)  # Torchrun ends all when one ends: the one that speaks is first.
            sys.exit(1)
        sys.exit("error: torchrun's processes need a name in common: export RUN_STAMP=NAME")
    os.environ.setdefault("RUN_STAMP", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3])


def output_folder() -> Path:
    """Hydra's folder of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def user_error(error: BaseException) -> UserError | None:
    """The UserError behind an exception, however Hydra wrapped it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def one_line_errors(function: Callable) -> Callable:
    """Prints a UserError as one line and exits with 1; other errors keep their traceback.

    In a sweep the job gives no metrics and the next one starts.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (UserError, InstantiationException) as error:
            known = user_error(error)
            if known is None:
                raise
            print(f"error: {known}", file=sys.stderr)
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                return {}  # The other jobs go on; the sweep's table shows this one as failed.
            sys.exit(1)

    return wrapped
