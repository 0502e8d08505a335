"""Time and memory of MimicMotion's networks with random weights, at their full size.

Usage: ``python benchmarks/video.py [--frames 31] [--tile 16] [--size 1024 576] [--offload none]``.
Random weights cost what trained ones do; nothing is downloaded. Reports

- one call of the UNet on a tile: milliseconds, arithmetic, and operations a second;
- seconds a denoising step of the clip takes, both halves of guidance and all tiles, from two clips
  that differ in their number of steps alone;
- what comes before and after the steps: reading the photograph and the drawings, decoding;
- the most memory held, and what 441 frames at 25 steps would take: one motion of PERSONA's.

``--tiny`` takes small networks, to try the script on a CPU; ``--out FILE`` writes the numbers.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.modules.device import pick_device
from persona.modules.diffusion.networks.placement import OFFLOADS, pick_dtype, place
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import SVD_XT, make_unet
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.tiles import anchored_tiles

FACTOR, DEVIATION = 8, 0.02
MOTION_FRAMES, MOTION_STEPS = 441, 25
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
CLIP: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1024, "hidden_act": "gelu",
    "num_hidden_layers": 32, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
TINY_UNET = SVD_XT | {
    "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 16,
    "num_attention_heads": (2, 2, 2, 2), "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}  # fmt: skip
TINY_VAE = VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1}
TINY_CLIP = CLIP | {
    "hidden_size": 16, "intermediate_size": 16, "projection_dim": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "patch_size": 56,
}  # fmt: skip


def random_sampler(tiny: bool, dtype: torch.dtype, device: torch.device) -> SvdSampler:
    """All networks on the device, their weights drawn there."""
    unet_config, vae_config, clip_config = (
        (TINY_UNET, TINY_VAE, TINY_CLIP) if tiny else (SVD_XT, VAE, CLIP)
    )
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            sampler = SvdSampler(
                make_unet(unet_config).eval(),
                PoseNet(unet_config["block_out_channels"][0]).eval(),
                AutoencoderKLTemporalDecoder(**vae_config).eval(),
                CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_config)).eval(),
            )
        finally:
            torch.set_default_dtype(torch.float32)
    networks: list[nn.Module] = [sampler.unet, sampler.pose_net]
    for network in networks:
        for value in network.parameters():
            nn.init.normal_(value, std=DEVIATION)
    return sampler


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


@torch.no_grad()
def time_unet(
    sampler: SvdSampler, size: tuple[int, int], tile: int, device: torch.device
) -> tuple[float, float]:
    """Seconds and operations of one call on a tile."""
    height, width = (n // FACTOR for n in size)
    latents = torch.randn(1, tile, 8, height, width, device=device)
    pose = torch.randn(tile, sampler.unet.unet.config.block_out_channels[0], height, width)
    tokens = torch.randn(1, 1, sampler.unet.unet.config.cross_attention_dim, device=device)
    times = torch.tensor([[6.0, 127.0, 0.0]], device=device)

    def call() -> object:
        return sampler.unet(latents, torch.tensor(1.0, device=device), tokens, times, posed)

    posed = pose.to(device)
    with FlopCounterMode(display=False) as counter:
        call()
    return min(seconds(call, device) for _ in range(3)), float(counter.get_total_flops())


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All numbers, in seconds, operations and bytes."""
    device = pick_device()
    dtype = pick_dtype(options.dtype, device)
    size = options.size[0], options.size[1]
    sampler = random_sampler(options.tiny, dtype, device)
    place(sampler.networks(dtype), device, options.offload)
    unet_s, operations = time_unet(sampler, size, options.tile, device)
    reference = torch.rand(3, *size, device=device)
    drawings = torch.rand(options.frames + 1, 3, *size) * 2 - 1

    def clip(steps: int) -> Callable[[], object]:
        how = SvdOptions(tile=options.tile, overlap=min(6, options.tile - 1), steps=steps)
        return lambda: sampler(reference, drawings, how, generator=torch.Generator().manual_seed(0))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clip(1)()  # Kernels are chosen in the first call.
    one_s = seconds(clip(1), device)
    many_s = seconds(clip(1 + options.steps), device)
    step_s = (many_s - one_s) / options.steps
    tiles = len(anchored_tiles(options.frames + 1, options.tile, min(6, options.tile - 1)))
    motion = len(anchored_tiles(MOTION_FRAMES, options.tile, min(6, options.tile - 1)))
    around_s = one_s - step_s
    return {
        "tiles": tiles,
        "unet_s": unet_s,
        "unet_flop": operations,
        "step_s": step_s,
        "around_s": around_s,
        "peak_bytes": float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else 0.0,
        "motion_s": MOTION_STEPS * step_s * motion / tiles
        + around_s * MOTION_FRAMES / (options.frames + 1),
    }


def main() -> None:
    """Measures, prints and perhaps writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=31, help="of the clip, without the first")
    parser.add_argument("--tile", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 576))
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--offload", choices=OFFLOADS, default="none")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options)
    table = Table(title=f"{options.frames} frames of {options.size}, tiles of {options.tile}")
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = {
        "UNet on a tile": f"{1e3 * found['unet_s']:.0f} ms, {found['unet_flop'] / 1e12:.3g} TFLOP",
        "operations a second": f"{found['unet_flop'] / found['unet_s'] / 1e12:.4g} TFLOP/s",
        f"a step ({found['tiles']:.0f} tiles, twice)": f"{found['step_s']:.2f} s",
        "before and after the steps": f"{found['around_s']:.1f} s",
        "most memory": f"{found['peak_bytes'] / 2**30:.1f} GiB",
        "441 frames, 25 steps, by the above": f"{found['motion_s']:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
    if options.out is not None:
        about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        options.out.write_text(json.dumps(about | found, indent=1))


if __name__ == "__main__":
    main()
