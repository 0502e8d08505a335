"""Lets one of several runs make a folder that all need; the others see it when it is complete."""

from __future__ import annotations

import glob
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from persona.data.io import PathLike
from persona.data.layout import SUBJECT_FILE, UNFINISHED_FILE
from persona.data.subject import Subject
from persona.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def one_maker(root: Path) -> Iterator[None]:
    """A lock on ``root``: other makers wait; a process that dies releases it.

    After waiting, check again whether the folder still has to be made.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root.with_name(f".{root.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for the process that makes %s", root)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_folder(root: Path, replaced: Sequence[str] = ("*",)) -> Iterator[Path]:
    """Yields a new folder beside ``root`` that replaces it at the end.

    After an error or a kill ``root`` is as it was. Use it within ``one_maker`` only.

    Args:
        root: Folder to make.
        replaced: Patterns of files that are removed from ``root`` even if they are not made again;
            all other files belong to others and move to the new folder.
    """
    _clear(root, replaced)
    made, old = (
        root.with_name(f".{root.name}.{secrets.token_hex(4)}.{end}") for end in ("making", "old")
    )
    try:
        yield made
        if root.exists():
            root.rename(old)
        try:
            made.rename(root)
        except OSError:
            if old.exists():
                old.rename(root)
            raise
        _take_over(root, old, replaced)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _clear(root: Path, replaced: Sequence[str]) -> None:
    """Cleans up after a killed maker of ``root``."""
    for left in sorted(root.parent.glob(f".{glob.escape(root.name)}.*")):
        ending = re.fullmatch(rf"\.{re.escape(root.name)}\.[0-9a-f]{{8}}\.(making|old)", left.name)
        if ending is None:  # Belongs to another folder whose name begins with this one's.
            continue
        if ending[1] == "making":
            shutil.rmtree(left, ignore_errors=True)
        elif root.exists():
            _take_over(root, left, replaced)
        else:
            left.rename(root)


def _take_over(root: Path, old: Path, replaced: Sequence[str]) -> None:
    """Moves files of others out of the old folder, and removes that."""
    for other in old.iterdir() if old.exists() else ():
        place = root / other.name
        if not place.exists() and not any(other.match(pattern) for pattern in replaced):
            other.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def needs_making(root: PathLike, maker: str, config_digest: str) -> bool:
    """Whether a maker of subjects has to (re)make ``root``: absent, unfinished or outdated.

    Args:
        root: Subject folder.
        maker: First word of the provenance of what it makes, such as ``synthetic``.
        config_digest: Hash of its configuration.

    Raises:
        UserError: the folder holds something else, which must not be overwritten.
    """
    root = Path(root)
    if not root.exists() or not any(root.iterdir()) or (root / UNFINISHED_FILE).exists():
        return True
    info = Subject(root).info if (root / SUBJECT_FILE).exists() else None
    if info is None or info.provenance.split()[:1] != [maker]:
        raise UserError(f"{root}: holds something that is not {maker}; choose another folder")
    return info.config_digest != config_digest


def make_subject(
    root: Path, maker: str, config_digest: str, write: Callable[[Path], object]
) -> None:
    """Makes a subject folder unless it is there, whole and of the same settings.

    Args:
        root: Subject folder.
        maker: See ``needs_making``.
        config_digest: Likewise.
        write: Writes the subject into the folder that it is given.

    Raises:
        UserError: See ``needs_making``.
    """
    with one_maker(root):
        if needs_making(root, maker, config_digest):
            log.info("making %s (%s)", root, maker)
            with whole_folder(root) as folder:
                write(folder)


def final_place(folder: Path) -> Path:
    """Final path of a folder: the path that it replaces if ``whole_folder`` made it."""
    while name := re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.making", folder.name):
        folder = folder.with_name(name[1])
    return folder
