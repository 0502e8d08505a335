"""Reports before a run starts what a dataset has, what it lacks, and where to get that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from persona.cli import user_error
from persona.data.checks import image_size
from persona.data.datamodule import SubjectDataModule
from persona.data.native.convert import check_image_size, read_person
from persona.data.native.source import NativeSource
from persona.data.subject import Subject
from persona.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One recording."""

    name: str
    problems: list[str]
    """One line for each thing that is missing; empty when a run can start."""
    summary: str = ""
    """What was found, when nothing is missing."""


def check_data(config: DictConfig) -> bool:
    """Prints what is found of each recording of ``config.data``.

    Returns:
        Whether all of them are ready.
    """
    console, ready = Console(soft_wrap=True, highlight=False), True
    for finding in findings(config):
        state = "[red]not ready[/red]" if finding.problems else "[green]ready[/green]"
        console.print(f"{escape(finding.name)}: {state} {escape(finding.summary)}".rstrip())
        for problem in finding.problems:
            console.print(f"  {escape(problem)}")
        ready &= not finding.problems
    return ready


def findings(config: DictConfig) -> Iterator[Finding]:
    """Looks at each recording: ``config.recordings``, or else those that papers report."""
    key = next((key for key in ("sequence", "subject") if key in config.data), None)
    if key is None:
        yield _examine(str(config.name), config.data)
        return
    source: type[NativeSource] = get_class(config.data.source._target_)
    names = source.sequences or [config.data[key]]
    for name in names if config.recordings is None else config.recordings:
        chosen = OmegaConf.merge(config, {"data": {key: str(name)}})
        yield _examine(f"{source.dataset} {name}", chosen.data)


def _examine(name: str, settings: DictConfig) -> Finding:
    """Looks at one recording as a run would, up to the point where it would start."""
    wrong = (
        []
        if (path := settings.get("path")) is None or Path(path).is_dir()
        else [f"data.path={path}: no such folder"]
    )
    try:
        data: SubjectDataModule = instantiate(settings)
        source = data.source
        if source is None:
            return _examine_subject(name, data.subject)
        if not isinstance(source, NativeSource):
            return Finding(name, [], "is made on first use")
        if missing := missing_files(source):
            return Finding(name, missing)
        return Finding(name, [], _examine_recording(source))
    except (UserError, InstantiationException) as error:
        known = user_error(error)
        if known is None:
            raise
        # A missing body fails before the path is checked, so a wrong path is reported beside it.
        return Finding(name, [*wrong, *([] if wrong and str(path) in str(known) else [str(known)])])


def missing_files(source: NativeSource) -> list[str]:
    """One line for each remedy, with all missing files that it would bring."""
    by_remedy: dict[str, list[str]] = defaultdict(list)
    for required in source.requirements():
        if not required.found:
            by_remedy[required.remedy].append(str(required.path))
    return [f"missing: {', '.join(paths)}; {remedy}" for remedy, paths in by_remedy.items()]


def _examine_recording(source: NativeSource) -> str:
    """Reads all but the pixels of training frames that are no input.

    Raises:
        UserError: something is broken or does not fit.
    """
    recording = source.read()
    captured = source.captured(recording)
    for frame in (*recording.train, *recording.test):
        check_image_size(frame, image_size(Path(frame.image)))
    for frame in (*captured, *recording.test):
        read_person(frame)
    made = captured[0].label if len(captured) == 1 else f"{len(captured)} frames"
    counts = f"{len(recording.train)} training and {len(recording.test)} test frames"
    return f"({counts}, input {made}){source.advice()}"


def _examine_subject(name: str, subject: Subject) -> Finding:
    """A subject folder: every file that training reads.

    Raises:
        UserError: one is missing or broken.
    """
    subject.validate(subject.splits)
    counts = ", ".join(f"{split} {len(subject.frame_ids(split))}" for split in subject.splits)
    return Finding(name, [], f"(subject folder: {counts})")
