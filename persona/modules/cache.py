"""Files that spare a later process a long computation, such as compiled kernels."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from persona.errors import UserError


def cache_folder() -> Path:
    """The folder named by PERSONA_CACHE, else ``~/.cache/persona``."""
    return Path(os.environ.get("PERSONA_CACHE") or Path.home() / ".cache" / "persona")


@contextmanager
def cached_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path that becomes ``path`` on success, so that readers see whole files.

    Raises:
        UserError: The file cannot be written.
    """
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: {error}; set PERSONA_CACHE to a folder with space") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
