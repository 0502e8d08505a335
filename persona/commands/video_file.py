"""Writes frames to video files, with or without alpha, and adds the sound of another file."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.ffmpeg import ffmpeg_package, ffmpeg_program
from persona.data.io import atomic_path
from persona.errors import UserError

QUEUE = 8
"""Most frames that may wait to be written."""
WHITE = (255, 255, 255)
Background = UInt8[ndarray, "h w 3"] | tuple[int, int, int]


@dataclass(frozen=True)
class VideoKind:
    """How ffmpeg writes one kind of file."""

    codec: str
    pixels: str
    """Pixel format, with a letter for alpha if it has any."""
    options: tuple[str, ...] = ()
    quality: int | None = None
    """imageio's quality, 0 to 10; None where the options set it."""
    alpha: bool = False
    sound: str | None = None
    """Codec of the sound; None for files without."""


_GIF = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
"""A palette for every frame, so that only one frame is held in memory."""
KINDS = {
    "mp4": VideoKind("libx264", "yuv420p", quality=8, sound="aac"),
    "webm": VideoKind(
        "libvpx-vp9", "yuva420p", alpha=True, sound="libopus",
        options=("-b:v", "0", "-crf", "24", "-cpu-used", "4", "-row-mt", "1",
                 "-auto-alt-ref", "0"),
    ),
    "mov": VideoKind(
        "prores_ks", "yuva444p10le", ("-profile:v", "4444", "-alpha_bits", "16"), alpha=True,
        sound="aac",
    ),
    "webp": VideoKind(
        "libwebp_anim", "yuva420p", ("-loop", "0", "-quality", "85"), alpha=True
    ),
    "gif": VideoKind("gif", "pal8", ("-filter_complex", _GIF, "-loop", "0")),
}  # fmt: skip
"""By the file's ending: H.264, VP9 and ProRes 4444 with alpha, and animated images."""
_NVENC = VideoKind(
    "h264_nvenc", "yuv420p", ("-preset", "p5", "-rc", "vbr", "-cq", "19", "-b:v", "0"), sound="aac"
)
_NVENC_LEAST_PX = 160


def kind_of(path: Path, height: int, width: int) -> VideoKind:
    """How a file is written: mp4 on the GPU's encoder where there is one.

    Raises:
        UserError: no such kind.
    """
    name = path.suffix[1:].lower()
    if name not in KINDS:
        raise UserError(f"{path.suffix} is no kind of video; choose {', '.join(KINDS)}")
    if name == "mp4" and min(height, width) >= _NVENC_LEAST_PX and has_nvenc():
        return _NVENC
    return KINDS[name]


@cache
def has_nvenc() -> bool:
    """Whether ffmpeg encodes on a GPU here: it offers it on machines without one, too."""
    source = ("-f", "lavfi", "-i", "color=size=256x256:duration=0.1")
    command = [ffmpeg_program(), "-loglevel", "quiet", "-nostdin", *source]
    done = subprocess.run([*command, "-c:v", _NVENC.codec, "-f", "null", "-"], check=False)
    return done.returncode == 0


def composite(rgba: UInt8[ndarray, "h w 4"], background: Background) -> UInt8[ndarray, "h w 3"]:
    """Frame over a background image or colour."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    under = np.broadcast_to(np.asarray(background, np.float32), (*rgba.shape[:2], 3))
    return (rgba[..., :3] * alpha + under * (1 - alpha)).round().astype(np.uint8)


@contextmanager
def background_calls(workers: int) -> Iterator[Callable[..., None]]:
    """Yields ``call(function, *args)``, which runs the function in another thread.

    When ``QUEUE`` calls are waiting, ``call`` itself waits. An exception is raised by a later
    ``call``, or at the end, when all are done.
    """
    waiting: deque[Future] = deque()

    def call(function: Callable, *args: object) -> None:
        waiting.append(pool.submit(function, *args))
        if len(waiting) > QUEUE:
            waiting.popleft().result()

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield call
            while waiting:
                waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def write_video(
    path: Path,
    frames: Iterable[UInt8[ndarray, "h w c"]],
    fps: float | int,
    background: Background | None = WHITE,
) -> int:
    """A video of the kind of its ending, written whole or not at all. Returns the number of frames.

    Encoding runs beside the iteration. RGBA frames are laid over ``background``; None keeps their
    alpha. Odd sides are padded by a row or column of white: codecs want even ones.

    Raises:
        UserError: no such kind of video, or it has no alpha to keep.
    """
    count = 0
    with atomic_path(path) as temporary:
        writer: _Writer | None = None

        def append(frame: UInt8[ndarray, "h w c"]) -> None:
            nonlocal writer
            if frame.shape[2] == 4 and background is not None:
                frame = composite(frame, background)
            height, width = frame.shape[:2]
            if height % 2 or width % 2:
                pad = ((0, height % 2), (0, width % 2), (0, 0))
                edge = 255 if frame.shape[2] == 3 else 0
                frame = np.pad(frame, pad, constant_values=edge)
            if writer is None:
                writer = _Writer(temporary, frame, fps)
            writer.write(frame)

        try:
            # One thread: frames keep their order.
            with background_calls(1) as call:
                for frame in frames:
                    call(append, frame)
                    count += 1
        finally:
            if writer is not None:
                writer.close()
    return count


class _Writer:
    """A running ffmpeg that takes frames.

    Args:
        path: The file.
        frame: Has the size and channels of all frames.
        fps: Frames per second.
    """

    def __init__(self, path: Path, frame: UInt8[ndarray, "h w c"], fps: float | int) -> None:
        kind = kind_of(path, *frame.shape[:2])
        if frame.shape[2] == 4 and not kind.alpha:
            able = ", ".join(name for name, row in KINDS.items() if row.alpha)
            raise UserError(f"{path.suffix[1:]} has no alpha: choose {able}, or a background")
        pixels = kind.pixels if frame.shape[2] == 4 else kind.pixels.replace("yuva", "yuv")
        self.process = ffmpeg_package().write_frames(
            str(path), frame.shape[1::-1], pix_fmt_in="rgba" if frame.shape[2] == 4 else "rgb24",
            pix_fmt_out=pixels, fps=fps, codec=kind.codec, quality=kind.quality,
            macro_block_size=2, output_params=list(kind.options),
        )  # fmt: skip
        self.process.send(None)

    def write(self, frame: UInt8[ndarray, "h w c"]) -> None:
        """Writes one more frame."""
        self.process.send(np.ascontiguousarray(frame))

    def close(self) -> None:
        """Ends the file."""
        self.process.close()


def add_sound(path: Path, source: Path, start_s: float = 0.0) -> None:
    """Adds the sound of another file to a video, cut to the video's length.

    Args:
        path: The video; replaced. A kind without sound stays as it is.
        source: File with the sound; if it has none, the video stays as it is.
        start_s: Where in the source the video begins, seconds.
    """
    codec = KINDS[path.suffix[1:].lower()].sound
    if codec is None:
        return
    with atomic_path(path) as temporary:
        command = [
            ffmpeg_program(), "-loglevel", "error", "-nostdin", "-y",
            "-i", str(path), "-ss", str(start_s), "-i", str(source), "-map", "0:v", "-map", "1:a?",
            "-c:v", "copy", "-c:a", codec, "-shortest", str(temporary),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["silently"])[-1]
            raise UserError(f"{source}: its sound cannot be read ({said}); take sound=false")
