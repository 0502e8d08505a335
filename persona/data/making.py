"""How a folder that several runs may want to make is made: by one of them, and whole."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def one_maker(root: Path) -> Iterator[None]:
    """Keeps other makers of ``root`` waiting; a process that dies frees them.

    Whoever had to wait must look again whether there is anything left to make.
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
def whole_folder(root: Path) -> Iterator[Path]:
    """Yields a folder beside ``root`` that takes its place when it is whole.

    After an error or a kill ``root`` is as it was. Only within ``one_maker``.
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
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
