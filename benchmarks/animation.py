"""Times the animation of a trained avatar, rendering alone and end to end.

Run ``python benchmarks/animation.py RUN [HEIGHT WIDTH FRAMES]``. Frames per second of
``draw`` (posing, network, skinning, rasterisation and conversion to bytes, on the device),
``host`` (the same, every frame copied to the host) and ``video`` (the same, encoded), the median of
several rounds with the lowest and highest; ``plain`` poses and renders frame by frame, with nothing
prepared.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from persona.cli import one_line_errors
from persona.commands.animation import (
    draw_frames,
    frame_motion,
    render_motion,
    to_pixels,
)
from persona.commands.experiment import load_system
from persona.commands.video_file import WHITE, write_video
from persona.data.ffmpeg import ffmpeg_package
from persona.data.motion.load import load_motion
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.systems.fit import Fit
from persona.types import BodyPose, Camera

ROUNDS = 5


def seconds(job: Callable[[], Iterable | int], device: torch.device) -> float:
    """Seconds of one round, until the device's queue is empty."""
    start = time.perf_counter()
    made = job()
    if not isinstance(made, int):
        for _ in made:
            pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def plain(system: Fit, poses: BodyPose, camera: Camera) -> Iterable:
    """As ``render_motion`` without preparation, batches or a prepared camera."""
    for row in range(len(poses.trans)):
        state = matrix_pose(system.body, poses[row].to(system.device))
        yield to_pixels(*system.render(state, camera.to(system.device)), None).cpu()


def main(run: str, height: int = 1024, width: int = 1024, count: int = 200) -> None:
    """Prints the table."""
    device = pick_device("auto")
    system = load_system(Path(run), device)
    motion = load_motion("dance", system.body, fps=30)
    rows = torch.arange(count) % len(motion)
    poses, camera = frame_motion(system, motion.pose[rows], height, width)
    scene = (system, poses, camera)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "plain": lambda: plain(*scene),
            "draw": lambda: draw_frames(*scene, background=WHITE),
            "host": lambda: render_motion(*scene, background=WHITE),
        }
        try:
            ffmpeg_package()
        except UserError as error:
            print(f"video is not timed: {error}")
        else:
            jobs["video"] = lambda: write_video(
                Path(folder) / "v.mp4", render_motion(*scene, background=WHITE), 30
            )
        # On a CPU a round takes a minute or more.
        rounds = {name: track(range(ROUNDS + 1), f"timing {name}") for name in jobs}
        times = {name: [seconds(job, device) for _ in rounds[name]][1:]
                 for name, job in jobs.items()}  # fmt: skip
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPUs"
    title = f"{count} frames of {height} x {width}, {machine}, load {os.getloadavg()[0]:.1f}"
    table = Table("path", "FPS", "lowest", "highest", title=title)
    for name, values in times.items():
        figures = (statistics.median(values), max(values), min(values))
        table.add_row(name, *(f"{count / value:.1f}" for value in figures))
    Console(width=100).print(table)


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder of train.py")
    for name, default in (("height", 1024), ("width", 1024), ("frames", 200)):
        parser.add_argument(name, type=int, nargs="?", default=default)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    one_line_errors(main)(given.run, given.height, given.width, given.frames)
