"""Time and memory of the video generators' networks with random weights, at their full size.

Usage: ``python benchmarks/video.py [mimicmotion] [--variants plain exact] [--clip] [--tiny]``.
Random weights cost what trained ones do; nothing is downloaded. One clip is 441 frames (one motion
of PERSONA's; ``wan_animate``: a segment of 77), and each of its calls is timed by itself, under
settings that are added one after the other:

- ``plain``: diffusers' own blocks;
- ``exact``: the same functions in less work, which is what generators do;
- ``channels_last``: with ``generator.channels_last=true``;
- ``compile``: with ``generator.compile=true``;
- ``fp8``: with ``generator.fp8=true`` as well;
- ``fused``: ``channels_last`` with kernels for attention along time and gates, as generators have;
- ``fused_compile``: with ``generator.compile=true`` as well;
- ``fused_fp8``: with ``generator.fp8=true`` as well.

Operations are counted in ``plain`` for all, so that less work shows as a higher rate; memory is the
most that is held in any call. ``--clip`` samples a whole clip as well, under the last settings, and
times it, after one step of a short clip, in which the calls that a clip makes once load and compile
their kernels. ``--kernels`` lists what the GPU spends a call of the first part on. ``--rate``
measures the card's rate of bfloat16 products first. ``--tiny`` takes small networks, to try the
script on a CPU; ``--out FILE`` writes the numbers.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from video_models import MODELS, Settings, Workload

from persona.modules.device import pick_device
from persona.modules.diffusion.networks.placement import pick_dtype
from persona.modules.diffusion.networks.speed import Speed, many_sizes

VARIANTS = {
    "plain": Speed(rewrite=False),
    "exact": Speed(),
    "channels_last": Speed(channels_last=True),
    "compile": Speed(channels_last=True, compile=True),
    "fp8": Speed(channels_last=True, compile=True, fp8=True),
    "fused": Speed(channels_last=True, fused=True),
    "fused_compile": Speed(channels_last=True, fused=True, compile=True),
    "fused_fp8": Speed(channels_last=True, fused=True, compile=True, fp8=True),
}
"""In their order: networks are changed from one to the next and never back, so a process measures
those that are fused or the other compiled ones."""
FUSED = {name for name, speed in VARIANTS.items() if speed.fused}
NOT_FUSED = {name for name, speed in VARIANTS.items() if speed.compile} - FUSED
FRAMES = {"wan_animate": 77}
MOTION = 441
TINY_SIZE = 128, 64


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Shortest wall time of a call."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Operations a second of a large product of bfloat16 matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds(lambda: a @ b, device, 3)
    return 2 * size**3 * 10 / seconds(lambda: [a @ b for _ in range(10)], device, 3)


def operations(workload: Workload) -> dict[str, float]:
    """Counts the operations of each part; calling each also warms it up."""
    counts = {}
    for name, part in workload.parts.items():
        with FlopCounterMode(display=False) as counter:
            part.call()
        counts[name] = float(counter.get_total_flops())
    return counts


def measure(
    workload: Workload, speed: Speed, device: torch.device, earlier: dict[str, Any] | None
) -> dict[str, Any]:
    """Seconds of each part, the first call's too, and the most memory."""
    if speed != VARIANTS["plain"]:
        speed.apply(workload.networks)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    parts, start = {}, time.perf_counter()
    first = 0.0
    for name, part in workload.parts.items():
        if not part.varies and earlier is not None:
            parts[name] = earlier["parts"][name]
            continue
        first += seconds(part.call, device)
        parts[name] = seconds(part.call, device, 2)
    return {
        "parts": parts,
        "first_s": first,
        "wall_s": time.perf_counter() - start,
        "clip_s": sum(parts[name] * part.count for name, part in workload.parts.items()),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
    }


def kernels(call: Callable[[], object], most: int = 24) -> str:
    """GPU time of one call by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        call()
        torch.cuda.synchronize()
    events = [e for e in profiled.key_averages() if e.device_type.name == "CUDA"]
    events.sort(key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    return "\n".join(
        f"{e.self_device_time_total / total:6.1%} {e.self_device_time_total / 1e3:8.2f} ms "
        f"{e.count:5d} x {e.key[:70]}"
        for e in events[:most]
    )


def whole_clip(clip: Callable[[bool], object], device: torch.device) -> dict[str, float]:
    """Seconds and memory of sampling all of it, and before that the first calls of a brief one."""
    first = seconds(lambda: clip(True), device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = {"brief_clip_s": first, "whole_clip_s": seconds(lambda: clip(False), device)}
    if device.type == "cuda":
        found["whole_clip_peak_bytes"] = float(torch.cuda.max_memory_allocated())
    return found


def table(
    title: str, workload: Workload, counts: dict[str, float], found: dict[str, dict[str, Any]]
) -> Table:
    """A column for each variant."""
    table = Table(title=title)
    table.add_column("what")
    for name in found:
        table.add_column(name, justify="right")
    for part, about in workload.parts.items():
        for what, show in (
            (f"{part}, ms ({about.count} calls)", lambda s: f"{1e3 * s:.1f}"),
            (f"  TFLOP/s ({counts[part] / 1e12:.3g} TFLOP)",
             lambda s, part=part: f"{counts[part] / s / 1e12:.0f}"),
        ):  # fmt: skip
            table.add_row(what, *(show(column["parts"][part]) for column in found.values()))
    total = sum(counts[name] * part.count for name, part in workload.parts.items())
    table.add_row(
        f"the clip's calls, s ({total / 1e15:.3g} PFLOP)",
        *(f"{column['clip_s']:.1f}" for column in found.values()),
    )
    table.add_row(
        "most memory, GiB", *(f"{column['peak_bytes'] / 2**30:.1f}" for column in found.values())
    )
    table.add_row("first calls, s", *(f"{column['first_s']:.1f}" for column in found.values()))
    return table


@torch.no_grad()
def main() -> None:
    """Measures, prints and perhaps writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", choices=MODELS, default="mimicmotion")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=[n for n in VARIANTS if n not in FUSED]
    )
    parser.add_argument("--frames", type=int, help="of the clip")
    parser.add_argument("--tile", type=int, help="frames that a network sees at once")
    parser.add_argument("--size", type=int, nargs=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--clip", action="store_true")
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if FUSED & set(options.variants) and NOT_FUSED & set(options.variants):
        parser.error("--variants: what is fused is measured by a process of its own")
    device = pick_device()
    settings = Settings(
        device=device, dtype=pick_dtype(options.dtype, device), tiny=options.tiny,
        frames=options.frames or FRAMES.get(options.model, MOTION),
        size=options.size or (TINY_SIZE if options.tiny else None),
        tile=options.tile, steps=options.steps,
    )  # fmt: skip
    console, found = Console(), {}
    about: dict[str, Any] = {"torch": torch.__version__, "device": str(device)}
    if options.rate:
        about["matrix_rate"] = matrix_rate(device)
        console.print(f"bfloat16 products: {about['matrix_rate'] / 1e12:.0f} TFLOP/s")
    workload = MODELS[options.model](settings)
    clip = workload.clip if options.clip else None
    if options.clip and clip is None:
        parser.error(f"--clip: {options.model} has single calls alone; leave it out")
    counts = operations(workload)
    chosen = [name for name in VARIANTS if name in options.variants]
    title = f"{options.model}, {settings.frames} frames, {settings.dtype}"
    with many_sizes() if any(VARIANTS[name].compile for name in chosen) else nullcontext():
        for name in chosen:
            earlier = next(iter(found.values()), None)
            found[name] = measure(workload, VARIANTS[name], device, earlier)
            console.print(f"{name}: {found[name]['clip_s']:.1f} s", highlight=False)
            if options.kernels:
                console.print(kernels(next(iter(workload.parts.values())).call), markup=False)
        console.print(table(title, workload, counts, found))
        if clip is not None:
            about |= whole_clip(clip, device)
            gib = about.get("whole_clip_peak_bytes", 0) / 2**30
            console.print(
                f"a whole clip, {chosen[-1]}: {about['whole_clip_s']:.1f} s, {gib:.1f} "
                f"GiB, after first calls of {about['brief_clip_s']:.1f} s"
            )
    if options.out is not None:
        given = {k: v for k, v in vars(options).items() if k != "out"}
        options.out.write_text(
            json.dumps(given | about | {"operations": counts, "variants": found}, indent=1)
        )


if __name__ == "__main__":
    main()
