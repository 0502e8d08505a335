"""Lets one of several runs make a folder that all want, and shows it to the others when whole."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def one_maker(root: Path) -> Iterator[None]:
    """A lock on ``root``: other makers wait; a process that dies releases it.

    Whoever waited must check again whether the folder is still to be made.
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
        replaced: Patterns of what goes away in ``root`` even if it is not made again; the rest of
            it is somebody else's, and moves to the new folder.
    """
    for left in root.parent.glob(f".{root.name}.*.making"):
        shutil.rmtree(left, ignore_errors=True)  # Of a maker that was killed.
    made, old = (
        root.with_name(f".{root.name}.{secrets.token_hex(4)}.{end}") for end in ("making", "old")
    )
    try:
        yield made
        if root.exists():
            root.rename(old)
        made.rename(root)
        for other in old.iterdir() if old.exists() else ():
            place = root / other.name
            if not place.exists() and not any(other.match(pattern) for pattern in replaced):
                other.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def final_place(folder: Path) -> Path:
    """Where a folder will be at last: that which it replaces if ``whole_folder`` made it."""
    name = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.making", folder.name)
    return folder.with_name(name[1]) if name else folder
