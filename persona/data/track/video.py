"""Reads video files with ffmpeg as upright RGB frames at a constant rate."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.ffmpeg import ffmpeg_program
from persona.errors import UserError

ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".wmv")
"""Endings of the files that are treated as videos."""
_STREAM = re.compile(r"Stream #\S+.*: Video: ")
_FPS = re.compile(r"([\d.]+)(k?) fps")
_SOUND = re.compile(r"Stream #\S+.*: Audio: ")
_MAX_FPS = 30.0
"""Enough for the speed at which people move; of videos with a higher rate, frames are skipped."""


@dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        path: The file.
        fps: Constant rate at which its frames are read; the file's own rate may vary.
        longest_px: Frames whose longer side is larger are scaled down to it.
    """

    path: Path
    fps: float
    longest_px: int = 1280
    sound: bool = False
    """Whether the file has a sound track."""

    @staticmethod
    def open(path: str | Path, fps: float | int | None = None, longest_px: int = 1280) -> Video:
        """Reads the properties of a file.

        Args:
            path: The file.
            fps: Rate to read it at; None takes its own, up to 30 frames per second.
            longest_px: See above.

        Raises:
            UserError: there is no such file, or no video in it.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such video; check the path")
        command = [ffmpeg_program(), "-hide_banner", "-i", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, errors="replace").stderr
        stream = next((line for line in said.splitlines() if _STREAM.search(line)), None)
        if stream is None:
            raise UserError(f"{path}: no video in it that can be read; save it as mp4 (H.264)")
        found = _FPS.search(stream)
        own = float(found[1]) * (1e3 if found[2] else 1) if found else _MAX_FPS
        rate = float(fps or min(own, _MAX_FPS))
        return Video(path, rate, longest_px, any(map(_SOUND.search, said.splitlines())))

    def frames(
        self, start: int = 0, end: int | None = None, longest_px: int | None = None
    ) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Yields frames from ``start`` to before ``end``, upright, with one in memory at a time.

        Raises:
            UserError: the file cannot be decoded.
        """
        # Make the rate constant before counting, so that a frame has the same number in any read.
        # Sides become even; the longer side after undoing the file's rotation is limited.
        side = longest_px or self.longest_px
        chosen = f"gte(n\\,{start})" + (f"*lt(n\\,{end})" if end is not None else "")
        wide = f"trunc(iw*min(1\\,{side}/max(iw\\,ih))/2)*2"
        high = f"trunc(ih*min(1\\,{side}/max(iw\\,ih))/2)*2"
        filters = f"fps={self.fps},select={chosen},scale=w=max(2\\,{wide}):h=max(2\\,{high})"
        command = [
            ffmpeg_program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-i",
            str(self.path), "-map", "0:v:0", "-vf", filters, "-fps_mode", "passthrough",
            *([] if end is None else ["-frames:v", str(end - start)]),
            "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-",
        ]  # fmt: skip
        with _running(command) as pipe:
            while (frame := _read_ppm(pipe)) is not None:
                yield frame

    def frame(self, index: int) -> UInt8[ndarray, "h w 3"] | None:
        """One frame; None beyond the end."""
        return next(self.frames(index, index + 1), None)


@contextmanager
def _running(command: list[str]) -> Iterator[IO[bytes]]:
    """The output of a process that is killed when the context ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _read_ppm(pipe: IO[bytes]) -> UInt8[ndarray, "h w 3"] | None:
    """The next picture (binary PPM, 8 bits); None at the end or where the stream breaks off."""
    header = [pipe.readline() for _ in range(3)]
    if header[0].strip() != b"P6":
        return None
    width, height = map(int, header[1].split())
    data = pipe.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
