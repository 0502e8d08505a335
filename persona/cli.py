"""What the entry points share: one-line errors and run folders that all ranks agree on."""

import errno
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from persona.errors import UserError
from persona.runtime.cores import limit_threads
from persona.runtime.termination import terminable

CONFIG_FILE = "config.yaml"
"""Name of a run's configuration, in its folder."""
GRACE_S = 3.0
"""Seconds that a process waits before it reports an error that all processes have: one reports it
and ends the others."""


_PLACES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP),
}
"""Errors of the file system that the user can mend by choosing another place."""


def stamp_run() -> None:
    """Fixes the run's time stamp before Hydra starts.

    Lightning's launcher starts every rank as its own process with its own Hydra: through the
    environment they agree on one folder. Under torchrun no process is first: the user names it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and "RUN_STAMP" not in os.environ:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # Torchrun ends all processes when one ends: the one that prints must be the first.
            time.sleep(GRACE_S)
            sys.exit(1)
        sys.exit("error: torchrun's processes need a name in common: export RUN_STAMP=NAME")
    os.environ.setdefault("RUN_STAMP", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3])


def output_folder() -> Path:
    """The output folder that Hydra has made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def launch(main: Callable[[], object]) -> None:
    """Runs an entry point; errors that the user can mend, in typing too, end it with one line.

    Hydra itself would print several lines or a traceback. HYDRA_FULL_ERROR=1 shows tracebacks.
    """
    hydra_utils.run_and_report = lambda func: func()
    one_line_errors(_started)(main)


def _started(main: Callable[[], object]) -> None:
    limit_threads()
    stamp_run()
    check_overrides(sys.argv[1:])
    sys.argv[1:] = in_the_runs_folder(sys.argv[1:])
    try:
        with terminable():
            main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuses options that Hydra cannot parse, saying how to quote them.

    Raises:
        UserError: there is one.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-") or not equals:
            continue
        try:
            parser.parse_overrides([argument])
        except OverrideParseException as error:
            raise UserError(
                f"{argument}: Hydra cannot parse this; quote what is special: "
                f'"{mended(key, value)}"'
            ) from error


def in_the_runs_folder(arguments: Sequence[str]) -> list[str]:
    """The arguments; with ``resume=DIR``, also overrides that make Hydra work in DIR.

    Raises:
        UserError: DIR is not a run folder.
    """
    given = [text.removeprefix("resume=") for text in arguments if text.startswith("resume=")]
    folder = (
        OverridesParser.create().parse_override(f"resume={given[-1]}").value() if given else None
    )
    if folder is None or any(text.startswith("hydra.run.dir=") for text in arguments):
        return list(arguments)
    if not (Path(str(folder)) / CONFIG_FILE).is_file():
        raise UserError(f"{folder} is not a run folder (no {CONFIG_FILE}); train.py prints one")
    return [*arguments, quoted("hydra.run.dir", folder), "hydra.output_subdir=null"]


def quoted(key: str, value: object) -> str:
    """An override of Hydra's whose value is taken as it is, whatever its characters."""
    # Hydra takes backslashes literally, except before a quote.
    text = re.sub(r"(\\*)(')", r"\1\1\\\2", str(value))
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f"{key}='{text}'"


def mended(key: str, value: str) -> str:
    """An override that Hydra cannot parse, quoted so that it can: a list item by item.

    A list within a list is quoted as one text, since where its items end is not known.
    """
    if value.startswith("[") and value.endswith("]") and not set("[]{}") & set(value[1:-1]):
        items = (item.strip().strip("'\"") for item in value[1:-1].split(","))
        return f"{key}=[{','.join(quoted('', item).removeprefix('=') for item in items)}]"
    return quoted(key, value)


def user_error(error: BaseException) -> UserError | None:
    """The UserError that caused an exception, or one made from it; None if it is a bug."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        # Skip an OSError that was merely being handled: code may expect a missing file, and a bug
        # in the handler would then be blamed on that file.
        context = None if isinstance(seen.__context__, OSError) else seen.__context__
        seen = seen.__cause__ or context
    found = next((e for e in chain if isinstance(e, UserError)), None)
    return found or next(filter(None, map(_translated, chain)), None)


def _translated(error: BaseException) -> UserError | None:
    """Errors of Hydra, OmegaConf and the file system about what the user typed, as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _PLACES and error.filename:
        return UserError(f"{error.filename}: {error.strerror}; choose another place")
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return UserError(f"{missing[1]}= is not given")
    if unknown := re.match(r"Could not override '(\S+)'\. (To append|No match)", text):
        plus = f", and +{unknown[1]}=... adds one" if "." not in unknown[1] else ""
        return UserError(f"{unknown[1]}: no such option; --cfg job shows all that there are{plus}")
    if isinstance(error, RuntimeError) and 'not detect "srun"' in text:  # submitit's.
        return UserError(
            "no SLURM here (srun is not found): start it where jobs are submitted, or leave "
            "hydra/launcher=slurm out"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = text.partition(" Config search path:")[0]
        return UserError(f"{text} (HYDRA_FULL_ERROR=1 shows where)")
    return None


def one_line_errors(function: Callable) -> Callable:
    """Prints what a user can mend as one line and exits with 1; bugs keep their traceback.

    In a sweep the job gives no metrics and the next one starts.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            check_given(args)
            return function(*args, **kwargs)
        except Exception as error:
            known = user_error(error)
            if known is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {known}", file=sys.stderr)
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                return {}  # The sweep goes on with other jobs; its table shows a failure.
            sys.exit(1)

    return wrapped


def check_given(arguments: Sequence[object]) -> None:
    """Refuses a configuration in which mandatory options are missing.

    Raises:
        UserError: names all of them.
    """
    for config in arguments:
        if isinstance(config, DictConfig) and (missing := sorted(OmegaConf.missing_keys(config))):
            names = " ".join(f"{name}=..." for name in missing)
            raise UserError(f"not given: {names}; the files in conf/ say what each is")
