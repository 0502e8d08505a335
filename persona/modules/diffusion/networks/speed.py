"""Settings that make a generator's networks faster; some of them round results.

Blocks are compiled one by one. Blocks of the same size share the compiled code, so compiling a
network of sixty blocks takes the time of ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.transformers.transformer_wan_animate import WanAttention, WanTransformerBlock
from torch import nn

from persona.errors import UserError
from persona.modules.diffusion.networks.fp8 import to_fp8
from persona.modules.diffusion.networks.motion_module import TemporalBlock
from persona.modules.diffusion.networks.spatio_temporal import keep_channels_last, quicken
from persona.modules.diffusion.networks.upsample import QuickUpsample

BLOCKS = (
    SpatioTemporalResBlock,
    TransformerSpatioTemporalModel,
    ResnetBlock2D,
    BasicTransformerBlock,
    TemporalBlock,
    WanTransformerBlock,
    QuickUpsample,
)
"""Blocks that are compiled as a whole, unless they are inside another of these."""
_SIZES = 64
"""Most sizes of one kind of block that may be compiled."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Settings that make a generator faster.

    Attributes:
        rewrite: Run blocks of Stable Video Diffusion by ``spatio_temporal``, with the same results.
        fused: On CUDA, use our own kernels for attention along time and for the gate of wide
            layers: a tenth less time for Stable Video Diffusion, a smaller gain if PyTorch compiles
            the blocks.
        channels_last: Store a pixel's channels together in memory, as GPUs' convolutions read them.
        compile: Compile blocks with PyTorch; the first clip waits a minute or two for it.
        fp8: Multiply 8-bit numbers in linear layers of transformers; needs bfloat16 and an H100 or
            later.
    """

    rewrite: bool = True
    fused: bool = False
    channels_last: bool = False
    compile: bool = False
    fp8: bool = False

    def check(self, dtype: torch.dtype, device: torch.device, offload: str) -> None:
        """Raises UserError for settings that cannot be combined."""
        if self.fp8 and device.type == "cuda":
            if torch.cuda.get_device_capability(device) < (8, 9):
                raise UserError(
                    "generator.fp8=true: this GPU has no 8-bit units; set generator.fp8=false"
                )
            if dtype != torch.bfloat16:
                raise UserError("generator.fp8=true needs generator.dtype=bfloat16")
        if offload == "sequential" and (self.compile or self.fp8):
            raise UserError(
                "generator.offload=sequential moves single layers: set generator.compile=false "
                "and generator.fp8=false, or generator.offload=model"
            )

    def apply(self, networks: Sequence[nn.Module], offload: str = "none") -> None:
        """Changes networks that already have their final precision."""
        for network in networks:
            # With sequential offload, layers' weights are absent when a rewritten block reads them.
            if self.rewrite and offload != "sequential":
                quicken(network, fused=self.fused)
            if self.channels_last:
                _put_channels_last(network)
                keep_channels_last(network)
            if self.fp8:
                for layers in _wide_layers(network):
                    to_fp8(layers)
            if self.compile:
                for block in _outermost(network):
                    block.compile(dynamic=False)


@contextmanager
def many_sizes() -> Iterator[None]:
    """A context in which compiled blocks may have many sizes; by default PyTorch allows eight."""
    with torch._dynamo.config.patch(recompile_limit=_SIZES):
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """A context for calls of a size that a clip has once: compiling takes longer than they do."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _put_channels_last(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def _wide_layers(network: nn.Module) -> list[nn.Module]:
    """Feed-forward layers and attention to many tokens, for which 8-bit products pay.

    If a gate is not computed by our kernel, which rounds as it writes, the layer after the gate
    stays in 16 bits: rounding its many inputs would need another pass that costs more than it
    gains.
    """
    found: list[nn.Module] = []
    for name, module in network.named_modules():
        if isinstance(module, FeedForward):
            gated = isinstance(module.net[0], GEGLU) and not getattr(module, "fused", False)
            found.append(module.net[0] if gated else module)
        elif isinstance(module, (Attention, WanAttention)) and not name.endswith("attn2"):
            found.append(module)
    return found


def _outermost(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, BLOCKS):
        return [network]
    return [block for child in network.children() for block in _outermost(child)]
