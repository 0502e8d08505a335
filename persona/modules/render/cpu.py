"""Gaussian rasteriser for machines without CUDA."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render import cpu_composite, cpu_project, cpu_tiles
from persona.modules.render.cpu_project import TILE
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.jit import kernel
from persona.modules.render.simd import LANES
from persona.types import Camera, Gaussians

_PACKED_ROWS = 2048
"""Gaussians whose channels are packed at a time: they stay in the processor's cache."""
_PACKED_ARRAYS = 12
"""Groups of channels that are packed by one call."""


@dataclass(frozen=True)
class _Setup:
    """What one rendering needs besides differentiable tensors."""

    view: np.ndarray
    """See ``cpu_project._unpack_view``."""
    bounds: tuple
    """(near, far, eps2d, height, width)."""
    sizes: tuple[int, ...]
    """Channels of each group of values; the geometry groups come first."""
    moving: int
    """How many groups, and as many images, move the geometry."""
    shown: tuple[int, ...]
    """Which group each image shows."""


class CpuRenderer(GaussianRenderer):
    """Numba backend: parallel over tiles, analytic gradients, the same result on every run."""

    name = device_type = "cpu"

    def _rasterize(
        self, gaussians: Gaussians, camera: Camera, moving: list[Tensor], still: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        g, values = gaussians, list(moving)
        shown = [*range(len(moving))]
        for tensor in still:  # A tensor that moves the geometry as well is composited once.
            place = next((i for i, own in enumerate(values) if own is tensor), len(values))
            values += [tensor] if place == len(values) else []
            shown.append(place)
        # Half precision, which autocast may hand in, is too coarse to sort by depth.
        dtype = torch.promote_types(g.means.dtype, torch.float32)
        setup = _Setup(
            view=_view(camera),
            bounds=(self.near_m, self.far_m, self.eps2d, camera.height, camera.width),
            sizes=tuple(v.shape[1] for v in values),
            moving=len(moving),
            shown=tuple(shown),
        )
        inputs = (g.means, g.scales, g.quaternions, g.opacities, *values)
        alpha, *images = _Rasterize.apply(setup, *(t.to(dtype) for t in inputs))
        return alpha, images


def _view(camera: Camera) -> np.ndarray:
    """The camera as the kernels take it; ray slopes are clamped 15 % outside the image."""
    rows = camera.cam_from_world.tolist()
    (fx, fy), (cx, cy) = camera.focal_px.tolist(), camera.center_px.tolist()
    margin_x, margin_y = 0.15 * camera.width, 0.15 * camera.height
    return np.array(
        [
            *(entry for row in rows[:3] for entry in row[:3]),
            *(row[3] for row in rows[:3]),
            fx, fy, cx, cy,
            -(cx + margin_x) / fx, (camera.width - cx + margin_x) / fx,
            -(cy + margin_y) / fy, (camera.height - cy + margin_y) / fy,
        ]
    )  # fmt: skip


def _arrays(tensors: Iterable[Tensor]) -> tuple[np.ndarray, ...]:
    """Contiguous numpy views, or copies of strided tensors."""
    return tuple(t.detach().contiguous().numpy() for t in tensors)


def _pack(values: tuple[Tensor, ...], count: int, dtype: np.dtype) -> np.ndarray:
    """Channels side by side, zero-padded to whole lanes."""
    # By numba: torch's threads would keep spinning for milliseconds on cores that it needs next.
    packed = np.empty((count, _padded(sum(v.shape[1] for v in values))), dtype)
    arrays = list(_arrays(values))
    for array in arrays:
        if len(array) != count:
            raise ValueError(f"a channel of {len(array)} rows for {count} Gaussians")
    arrays.append(np.zeros((count, packed.shape[1] - sum(a.shape[1] for a in arrays)), dtype))
    # Always as many arrays, so that the kernel is compiled once.
    none, first = np.empty((count, 0), dtype), 0
    for low in range(0, len(arrays), _PACKED_ARRAYS):
        some = arrays[low : low + _PACKED_ARRAYS]
        _put((*some, *[none] * (_PACKED_ARRAYS - len(some))), packed, first)
        first += sum(array.shape[1] for array in some)
    return packed


@kernel(parallel=True)
def _put(arrays, packed, first):
    """Copies arrays side by side into the columns from ``first`` on."""
    count = len(packed)
    for block in prange((count + _PACKED_ROWS - 1) // _PACKED_ROWS):
        low, high, start = block * _PACKED_ROWS, min((block + 1) * _PACKED_ROWS, count), first
        for array in arrays:
            for row in range(low, high):
                for column in range(array.shape[1]):
                    packed[row, start + column] = array[row, column]
            start += array.shape[1]


def _threads() -> int:
    """Number of threads: as many as torch may use, at most as many as numba has."""
    return min(torch.get_num_threads(), numba.get_num_threads())


def _padded(channels: int) -> int:
    """Channels in whole lanes, at least one."""
    return -(-max(channels, 1) // LANES) * LANES


def _image_gradients(
    setup: _Setup,
    dtype: np.dtype,
    groups: Sequence[int],
    images: Sequence[int],
    grads: tuple[Tensor | None, ...],
) -> np.ndarray:
    """Sums of the gradients by some images (k, h, w), in the rows of the groups that they show.

    Args:
        setup: Of the rendering.
        dtype: Of the result.
        groups: That have rows, in this order.
        images: That count.
        grads: By all images; None where autograd gave none.
    """
    ends = np.cumsum([0, *(setup.sizes[group] for group in groups)])
    packed = np.zeros((ends[-1], *setup.bounds[3:]), dtype)
    for image in images:
        gradient, group = grads[image], setup.shown[image]
        if gradient is not None and group in groups:
            place = groups.index(group)
            packed[ends[place] : ends[place + 1]] += gradient.numpy()
    return packed


class _Rasterize(torch.autograd.Function):
    """(setup, means, scales, quaternions, opacities, *values) -> (alpha, *images)."""

    @staticmethod
    def forward(ctx, setup: _Setup, *inputs: Tensor) -> tuple[Tensor, ...]:
        gaussians = _arrays(inputs[:4])
        count, dtype = len(inputs[0]), gaussians[0].dtype
        height, width = setup.bounds[3:]
        tiles_y, tiles_x = (-(-side // TILE) for side in (height, width))

        splats = np.zeros((count, cpu_project.SPLAT_SIZE), dtype)
        depths, tiles = np.zeros(count, np.float32), np.zeros((count, 4), np.int32)
        cpu_project.project(gaussians, setup.view, setup.bounds, splats, depths, tiles)
        starts, first = cpu_tiles.count_tiles(tiles, tiles_x, tiles_y)
        members, places = np.empty(first[-1], np.int32), np.empty(first[-1], np.int32)
        order = cpu_tiles.near_to_far(depths)
        cpu_tiles.bin_tiles(order, tiles, tiles_x, starts, members, places, first)

        values = _pack(inputs[4:], count, dtype)
        images = np.zeros((sum(setup.sizes), height, width), dtype)
        clear, ends = np.ones((height, width), dtype), np.empty((height, width), np.int32)
        used = np.zeros(tiles_x * tiles_y, np.int64)
        cpu_composite.composite(
            splats, values, starts, members, _threads(), (images, clear, ends, used)
        )

        ctx.setup = setup
        ctx.save_for_backward(*inputs)
        ctx.arrays = (splats, values, tiles, starts, members, places, first, clear, ends, used)
        ctx.set_materialize_grads(False)
        alpha = 1 - torch.from_numpy(clear)[None]
        rows = np.cumsum((0, *setup.sizes))
        parts = [torch.from_numpy(images[rows[i] : rows[i + 1]]) for i in setup.shown]
        # Images of one group must not share memory: a caller may write into one of them.
        return alpha, *(
            part.clone() if group in setup.shown[:place] else part
            for place, (part, group) in enumerate(zip(parts, setup.shown, strict=True))
        )

    @staticmethod
    @first_order
    def backward(ctx, g_alpha: Tensor | None, *g_images: Tensor | None):
        splats, values, tiles, starts, members, places, first, clear, ends, used = ctx.arrays
        setup, inputs = ctx.setup, ctx.saved_tensors
        needed, own = ctx.needs_input_grad[1:5], ctx.needs_input_grad[5:]
        # Constants, such as masks, may move the geometry but take no gradient themselves.
        groups = [group for group in range(len(own)) if own[group]]
        moving = range(setup.moving if any(needed) else 0)
        g_outputs = (
            _image_gradients(setup, values.dtype, groups, range(len(setup.shown)), g_images),
            _image_gradients(setup, values.dtype, moving, moving, g_images),
            np.zeros_like(clear) if g_alpha is None else _arrays(g_alpha)[0],
        )
        offsets = np.concatenate(([0], np.cumsum(used)))
        columns = _padded(len(g_outputs[0]))
        pairs = np.zeros((offsets[-1], columns + LANES), values.dtype)
        cpu_composite.composite_backward(
            splats, values, starts, members, (clear, ends, offsets),
            (*g_outputs, any(needed)), _threads(), pairs,
        )  # fmt: skip
        sums = np.empty((len(values), columns + LANES), values.dtype)
        tiles_x = -(-setup.bounds[4] // TILE)
        cpu_composite.gather(pairs, tiles, tiles_x, (starts, places, first, offsets), sums)
        found: list[Tensor | None] = [None] * len(inputs)
        if any(needed):
            grads = tuple(torch.zeros_like(t).contiguous() for t in inputs[:4])
            cpu_project.project_backward(
                _arrays(inputs[:4]), setup.view, setup.bounds[2], tiles, sums[:, columns:],
                _arrays(grads), needed[2],
            )  # fmt: skip
            found[:4] = (g if wanted else None for g, wanted in zip(grads, needed, strict=True))
        by_values = torch.from_numpy(sums[:, : len(g_outputs[0])])
        sizes = [setup.sizes[group] for group in groups]
        for group, gradient in zip(groups, by_values.split(sizes, 1), strict=True):
            found[4 + group] = gradient
        return None, *found
