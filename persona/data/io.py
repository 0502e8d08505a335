"""Files: atomic writes, and reads whose errors name the file and the remedy."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from persona.errors import UserError

PathLike = str | Path

_FULL = {errno.ENOSPC, errno.EDQUOT}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` (same ending) that replaces it on success.

    Missing folders are made. After an exception, a full disk or a kill, ``path`` is as it was.

    Raises:
        UserError: the disk is full or the place may not be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        _discard(temporary)
        _raise_unwritable(path, error)
    except BaseException:
        _discard(temporary)
        raise


def _flush(path: Path) -> None:
    """Flushes the content to the disk before the rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _raise_unwritable(path: Path, error: Exception) -> NoReturn:
    """Turns errors that the user can mend into a UserError; others pass through."""
    code = getattr(error, "errno", None)
    if code in _FULL or _disk_full(path.parent):
        message = f"{path}: the disk is full; free some space or choose another folder"
        raise UserError(message) from error
    if code in _FORBIDDEN or isinstance(error, FileExistsError | NotADirectoryError):
        reason = os.strerror(code) if code else str(error)
        raise UserError(f"{path}: cannot be written ({reason}); choose another folder") from error
    raise error


def _disk_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 4096
    except OSError:
        return False


def write_bytes(path: PathLike, data: bytes | memoryview) -> None:
    """Writes ``data`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any, indent: int | None = None) -> None:
    """Writes JSON atomically; arrays and tensors become lists, floats keep every bit.

    Raises:
        ValueError: a number is not finite.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_csv(
    path: PathLike, rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> None:
    """A table with one header line; infinite is ``inf``, absent is empty.

    Args:
        path: Path of the file.
        rows: Values by name.
        names: Names of the columns, in order; None takes them as they first come in the rows.
    """
    if names is None:
        names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_npy(path: PathLike, array: Shaped[np.ndarray, "..."]) -> None:
    """Writes a .npy file atomically."""
    buffer = io.BytesIO()  # np.save straight into a file hides the reason when the disk is full
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getbuffer())


def write_png(path: PathLike, image: UInt8[np.ndarray, "h w *c"] | Bool[np.ndarray, "h w"]) -> None:
    """Writes grey, RGB or RGBA uint8, or a boolean mask as 0 / 255, atomically."""
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=3)
    write_bytes(path, buffer.getbuffer())


def _require(path: PathLike, remedy: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; {remedy}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file; {remedy}")
    return path


def read_text(path: PathLike, remedy: str = "check the path") -> str:
    """Reads UTF-8 text, or UTF-16 with its byte order mark."""
    try:
        return text_of(_require(path, remedy).read_bytes())
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason}); {remedy}") from error


def text_of(data: bytes, errors: str = "strict") -> str:
    """UTF-8, with or without a byte order mark, or UTF-16 with one; lines end by a newline alone.

    errors: As ``bytes.decode`` takes it.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: PathLike, remedy: str = "check the path") -> Any:
    """Reads JSON.

    Raises:
        UserError: missing, truncated, not JSON, or holding NaN or Infinity.
    """
    text = read_text(path, remedy)

    def refuse(name: str) -> NoReturn:
        raise UserError(f"{path}: holds {name}, which is not a number; {remedy}")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{path}: not valid or truncated JSON ({where}); {remedy}") from error


# NumPy parses headers with ``ast``. In Python 3.11 its recursion counter is shared between threads,
# so that two parsing at once sometimes raise SystemError.
_PARSING = Lock()


def read_npy(path: PathLike, remedy: str = "check the path") -> Shaped[np.ndarray, "..."]:
    """Reads a .npy file without pickles.

    Raises:
        UserError: missing, truncated or not a .npy file.
    """
    try:
        with _PARSING:
            return np.load(_require(path, remedy), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a .npy file or truncated; {remedy}") from error


def visible(paths: Iterable[Path]) -> list[Path]:
    """Without hidden files that some file systems add, such as ``._0.png``."""
    return [path for path in paths if not path.name.startswith(".")]


def _open_image(path: PathLike, remedy: str) -> Image.Image:
    """Decodes a whole image and turns it upright."""
    path = _require(path, remedy)
    if _is_heif(path):
        _read_heif(path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: {_unidentified(path)}; {remedy}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path}: broken or truncated image ({error}); {remedy}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large ({error}); make it smaller") from error


def _is_heif(path: Path) -> bool:
    """Whether a file is a HEIC photo, as telephones take them, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _read_heif(path: Path) -> None:
    """Teaches Pillow HEIC.

    Raises:
        UserError: the optional package for it is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UserError(
            f"{path}: is a HEIC photo; pip install 'persona[heic]', or save it as JPEG"
        ) from error
    register_heif_opener()


def _unidentified(path: Path) -> str:
    """The reason why Pillow cannot read a file."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return "a TIFF of a kind that is not read (save it as 8-bit PNG)"
    return "not an image (PNG or JPEG expected)"


def _eight_bit(image: Image.Image, path: PathLike) -> Image.Image:
    """16-bit and floating-point grey to 8-bit; other modes stay.

    Floating-point greys lie between 0 and 1, or else as far as 8 or 16 bits go.

    Raises:
        UserError: they do not.
    """
    if image.mode not in ("I", "I;16", "I;16B", "I;16L", "F"):
        return image
    values, white = np.asarray(image).astype(np.float64), 65535.0
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
            raise UserError(f"{path}: floating-point pixels beyond 0 to 1; save it as 8-bit PNG")
        white = next(limit for limit in (1.0, 255.0, white) if values.max() <= limit)
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def read_image(path: PathLike, remedy: str = "check the path") -> UInt8[np.ndarray, "h w 3"]:
    """Reads any photo as upright 8-bit RGB; transparency is laid on white.

    Raises:
        UserError: missing, not an image or truncated.
    """
    image = _eight_bit(_open_image(path, remedy), path)
    if _has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return np.array(image.convert("RGB"))


def read_mask(path: PathLike, remedy: str = "check the path") -> Bool[np.ndarray, "h w"]:
    """Reads a mask: first channel above one half, and opaque where there is transparency.

    Raises:
        UserError: missing, not an image or truncated.
    """
    image = _eight_bit(_open_image(path, remedy), path)
    pixels = np.asarray(image.convert("RGBA"))
    return (pixels[..., 0] > 127) & (pixels[..., 3] > 127)
