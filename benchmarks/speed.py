"""Time and memory of a training step and an animated frame, split into parts.

``python benchmarks/speed.py`` (PERSONA at 1024 x 576 with the paper's losses; options as train.py)
``python benchmarks/speed.py -m speed.renders=packed,separate`` (ours against one gsplat call per
target, the reference implementation's schedule, in one run)
``python benchmarks/speed.py speed.frames_stored=907`` (as much memory as a real subject takes)

Steps are timed as they are trained, by Lightning's own loop. A few more are then run part by part,
without the CUDA graph where there is one, for the split into sections.
"""

import subprocess
import time
from collections import defaultdict
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean, median, pstdev

import hydra
import lightning as L
import torch
from full_store import with_full_store
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from section_timer import SectionTimer
from separate import separate

from persona.cli import launch, one_line_errors, output_folder
from persona.commands.experiment import quiet_libraries, set_allocator
from persona.data.io import write_json, write_text
from persona.data.layout import CAPTURED
from persona.errors import check_choice
from persona.systems.fit import Fit

WARMUP_FRAMES = 16
RENDERS = ("packed", "separate", "separate_asked", "separate_ours")
RANDOM_WEIGHTS = (
    "The perceptual network has **random weights**: the arithmetic is that of trained ones."
)
ROOT = Path(__file__).parents[1]


class StepClock(L.Callback):
    """Milliseconds of each training step, by kind of frame, and memory on CUDA.

    Args:
        warmup: steps that are not counted.
        steps: number of all steps; later ones are ignored.
    """

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.steps = warmup, steps
        self.marks: list[tuple[str, object]] = []
        self.memory: dict[str, float] = {}

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        """One mark per step: an event in the stream, so that the host runs on."""
        if len(self.marks) == self.steps:
            return
        captured = CAPTURED in batch.role
        self.marks.append(("captured" if captured else "generated", mark(system.device)))
        if system.device.type == "cuda" and len(self.marks) in (self.warmup, self.steps):
            self._look_at_memory(system.device)

    def _look_at_memory(self, device: torch.device) -> None:
        """Peaks since the start, which capturing graphs is part of, and since the warm-up."""
        torch.cuda.synchronize()
        allocated = torch.cuda.max_memory_allocated() / 2**30
        free, total = torch.cuda.mem_get_info(device)
        self.memory = {
            "peak_gib": max(allocated, self.memory.get("peak_gib", 0.0)),
            "steady_peak_gib": allocated,
            "reserved_gib": max(
                torch.cuda.max_memory_reserved() / 2**30, self.memory.get("reserved_gib", 0.0)
            ),
            "device_used_gib": (total - free) / 2**30,
        }
        torch.cuda.reset_peak_memory_stats()

    def milliseconds(self) -> dict[str, list[float]]:
        """Times of counted steps: of ``all``, and by whether this process has a captured frame."""
        if self.marks and hasattr(self.marks[0][1], "synchronize"):
            torch.cuda.synchronize()
        times = defaultdict(list)
        counted = self.marks[self.warmup - 1 :]
        for (_, before), (kind, after) in pairwise(counted):
            value = between(before, after)
            times["all"].append(value)
            times[kind].append(value)
        return dict(times)


def mark(device: torch.device):
    """A point in time on the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start, end) -> float:
    """Milliseconds from one mark to another."""
    return (end - start) * 1e3 if isinstance(start, float) else start.elapsed_time(end)


def summary(values: list[float]) -> dict[str, float]:
    """Median, mean and spread of milliseconds."""
    return {
        "median": median(values), "mean": mean(values), "std": pstdev(values),
        "max": max(values), "count": len(values),
    }  # fmt: skip


def measure_training(config: DictConfig, folder: Path) -> tuple[dict, Fit]:
    """Times of training steps, their sections and the peak memory."""
    L.seed_everything(config.seed, verbose=False)
    how, steps = config.speed.renders, config.speed.steps
    check_choice("speed.renders", how, RENDERS)
    data, system = instantiate(with_full_store(config).data), instantiate(config.system)
    clock, timer = StepClock(config.speed.warmup, steps), SectionTimer(steps)
    drawn = None if how == "packed" else separate(system, how)
    settings = OmegaConf.merge(config.trainer, {"max_steps": steps + config.speed.sections})
    trainer = instantiate(settings, callbacks=[clock, timer], logger=False,
                          default_root_dir=str(folder))  # fmt: skip
    started = time.perf_counter()
    trainer.fit(system, datamodule=data)
    times = {kind: summary(v) for kind, v in clock.milliseconds().items()}
    result = {
        "step_ms": times,
        "samples_per_second": 1e3 * trainer.world_size * data.batch_size / times["all"]["mean"],
        "sections_ms": timer.milliseconds(),
        "num_gaussians": system.avatar.template.num_gaussians,
        "fit_seconds": time.perf_counter() - started,
        "frames": len(data.train_frames),
        "frames_gib": data.train_frames.num_bytes / 2**30,
        "frames_on": "device" if data.train_frames.feed is None else "host",
        **clock.memory,
    }
    if drawn is not None:
        result["rasteriser_calls_per_step"] = drawn.calls / (steps + config.speed.sections)
        system.renderer = drawn.inner
    return result, system


@torch.no_grad()
def measure_animation(system: Fit, config: DictConfig, device: str) -> dict[str, float]:
    """Frames per second by image side, network and skinning included, encoding not."""
    from persona.commands.animation import draw_frames, frame_motion
    from persona.data.motion.load import load_motion

    system = system.to(device).eval()
    motion = load_motion("dance", system.body, fps=30)
    rates = {}
    for size in config.speed.sizes:
        poses, camera = frame_motion(system, motion.pose, size, size)
        repeats = -(-(config.speed.frames + WARMUP_FRAMES) // len(motion))
        poses = poses[torch.arange(len(motion)).repeat(repeats)]
        frames = draw_frames(system, poses, camera, background=(255, 255, 255))

        def play(count: int, frames=frames) -> float:
            start = mark(system.device)
            for _ in islice(frames, count):
                pass
            end = mark(system.device)
            if system.device.type == "cuda":
                torch.cuda.synchronize()
            return between(start, end)

        play(WARMUP_FRAMES)
        rates[str(size)] = config.speed.frames / play(config.speed.frames) * 1e3
    return rates


def has_random_weights(config: DictConfig) -> bool:
    """Whether there is a perceptual network, and it is untrained."""
    return config.perceptual.net is not None and config.perceptual.random_weights


def machine() -> dict[str, str]:
    """Machine and code version of the measurement."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"device": name, "torch": torch.__version__, "commit": commit or "unknown"}


def markdown(result: dict) -> str:
    """The result as tables."""
    lines = [f"Measured with `{result['command']}` on {result['machine']}.", ""]
    lines += ["| step, ms | median | mean | std | max | steps |", "|---|---|---|---|---|---|"]
    for kind, v in result["step_ms"].items():
        cells = [f"{v[k]:.2f}" for k in ("median", "mean", "std", "max")]
        lines.append(f"| {kind} | {' | '.join(cells)} | {v['count']} |")
    lines += ["", f"{result['samples_per_second']:.1f} frames per second in training."]
    lines += ["", "| section, ms | median |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in result["sections_ms"].items()]
    lines += ["", f"{result['frames']} frames of {result['frames_gib']:.2f} GiB on the "
              f"{result['frames_on']}."]  # fmt: skip
    if "rasteriser_calls_per_step" in result:
        lines += ["", f"{result['rasteriser_calls_per_step']:.1f} rasteriser calls a step."]
    if "peak_gib" in result:
        lines += ["", f"Peak memory {result['peak_gib']:.2f} GiB allocated "
                  f"({result['steady_peak_gib']:.2f} after the warm-up), "
                  f"{result['reserved_gib']:.2f} GiB reserved by torch, "
                  f"{result['device_used_gib']:.2f} GiB of the device in use."]  # fmt: skip
    if result["random_weights"]:
        lines += ["", RANDOM_WEIGHTS]
    for size, rate in result.get("animation_fps", {}).items():
        lines += ["", f"Animation at {size} x {size}: {rate:.0f} frames per second."]
    return "\n".join(lines) + "\n"


@hydra.main(config_path="../conf", config_name="speed", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> dict[str, float]:
    """Measures, prints and saves."""
    folder = output_folder()
    quiet_libraries()
    set_allocator(config.get("allocator"))
    result, system = measure_training(config, folder)
    if rank_zero_only.rank:
        return {}
    if config.speed.sizes:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        result["animation_fps"] = measure_animation(system, config, device)
    overrides = hydra.core.hydra_config.HydraConfig.get().overrides.task
    result |= {"machine": machine(), "renders": config.speed.renders}
    result["random_weights"] = has_random_weights(config)
    result["command"] = " ".join(["python benchmarks/speed.py", *overrides])
    size = config.data.source.config
    result["frame"] = [size.height, size.width]
    for where in filter(None, (folder, config.speed.save)):
        write_json(Path(where) / f"speed_{config.speed.renders}.json", result)
        write_text(Path(where) / f"speed_{config.speed.renders}.md", markdown(result))
    print(markdown(result))
    return {"step_ms": result["step_ms"]["all"]["mean"]}


if __name__ == "__main__":
    launch(main)
