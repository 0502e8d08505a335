"""``functional.photometric`` on a CPU: two passes of rows each way, where the images differ.

A render over the photograph equals it beside the person, and there both terms are zero.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import kernel

REACH = 5
"""Half of SSIM's window of 11 pixels."""


_BELL = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2 * 1.5**2))
TAPS = tuple(np.float32(tap) for tap in _BELL / _BELL.sum())
"""Weights of the window, whose standard deviation is 1.5 pixels."""
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
ONE, TWO = np.float32(1), np.float32(2)


@kernel()
def _mirrored(place, size):
    """The pixel that stands at a place beyond the ends."""
    place = abs(place)
    return 2 * (size - 1) - place if place >= size else place


@kernel(fastmath={"contract"})
def _sum_along(source, column):
    """The window's sum from ``column`` on, which is its left end."""
    total = TAPS[0] * source[column]
    for tap in range(1, 2 * REACH + 1):
        total += TAPS[tap] * source[column + tap]
    return total


@kernel(parallel=True, fastmath={"contract"})
def _across(x, y, box, moments):
    """Blurs x, y, x x, y y and x y along the rows, at the columns of the box.

    x, y: (c, h, w). box: rows and columns, ends excluded. moments: (5, c, rows, columns), output;
    the rows are the box's and ``REACH`` more on either side, within the image.
    """
    channels, width = x.shape[0], x.shape[2]
    top, _, left, right = box
    above = max(top - REACH, 0)
    rows, wide = moments.shape[2], right - left
    for line in prange(channels * rows):
        c, r = line // rows, line % rows
        ends = np.empty((5, wide + 2 * REACH), np.float32)
        for place in range(wide + 2 * REACH):
            column = _mirrored(left - REACH + place, width)
            a, b = x[c, above + r, column], y[c, above + r, column]
            ends[0, place], ends[1, place] = a, b
            ends[2, place], ends[3, place], ends[4, place] = a * a, b * b, a * b
        for m in range(5):
            source, out = ends[m], moments[m, c, r]
            for column in range(wide):
                out[column] = _sum_along(source, column)


@kernel(parallel=True, fastmath={"contract"})
def _compare(x, y, weight, shares, box, moments, slopes, sums):
    """Blurs down the columns and compares.

    weight: (h, w), or empty. shares: (l1, ssim, 1 / pixels). slopes: (3, c, rows, columns), output,
    of the value by the blurred x, x x and x y. sums: (c, rows), output, parts of the value.
    """
    height = x.shape[1]
    channels, rows, wide = slopes.shape[1:]
    top, left = box[0], box[2]
    above, weighted = max(top - REACH, 0), weight.size > 0
    l1, ssim, share = np.float32(shares[0]), np.float32(shares[1]), np.float32(shares[2])
    for line in prange(channels * rows):
        c, r = line // rows, line % rows
        mean = np.zeros((5, wide), np.float32)
        for tap in range(2 * REACH + 1):
            source = _mirrored(top + r + tap - REACH, height) - above
            scale = TAPS[tap]
            for m in range(5):
                row, out = moments[m, c, source], mean[m]
                for column in range(wide):
                    out[column] += scale * row[column]
        ones = np.ones(wide, np.float32)
        w = weight[top + r, left : left + wide] if weighted else ones
        differ, alike = np.float32(0), np.float32(0)
        for column in range(wide):
            mx, my = mean[0, column], mean[1, column]
            xx, yy, xy = mean[2, column], mean[3, column], mean[4, column]
            a, b = TWO * mx * my + C1, TWO * (xy - mx * my) + C2
            d, e = mx * mx + my * my + C1, (xx - mx * mx) + (yy - my * my) + C2
            inverse = ONE / (d * e)
            s = a * b * inverse
            factor = -ssim * share * w[column]
            slopes[0, c, r, column] = (
                factor * TWO * (my * (b - a) * inverse - mx * s * (ONE / d - ONE / e))
            )
            slopes[1, c, r, column] = -factor * s / e
            slopes[2, c, r, column] = factor * TWO * a * inverse
            alike += w[column] * (ONE - s)
            differ += w[column] * abs(x[c, top + r, left + column] - y[c, top + r, left + column])
        sums[c, r] = l1 * differ + ssim * alike


@kernel(fastmath={"contract"})
def _add_rows(slopes, c, place, down):
    """Adds what the slopes of a channel give to the row ``place`` of their own, blurred down."""
    rows, wide = slopes.shape[2:]
    for tap in range(2 * REACH + 1):
        r = place - tap + REACH
        if r < 0 or r >= rows:
            continue
        for m in range(3):
            row, total, scale = slopes[m, c, r], down[m, 2 * REACH :], TAPS[tap]
            for column in range(wide):
                total[column] += scale * row[column]


@kernel()
def _fold(line, start, width):
    """Adds what lies beyond the ends of an image to what is mirrored there.

    line: begins at the column ``start``.
    """
    for place in range(start, min(0, start + len(line))):
        line[-place - start] += line[place - start]
    for place in range(max(width, start), start + len(line)):
        line[2 * (width - 1) - place - start] += line[place - start]


@kernel(parallel=True, fastmath={"contract"})
def _differentiate(x, y, weight, shares, box, slopes, scale, out):
    """The gradient by x: the transposed blur of the slopes, and L1's.

    scale: of the gradient. out: (c, h, w), output; zero farther than ``REACH`` from the box.
    """
    channels, height, width = x.shape
    top, bottom, left, right = box
    above, below = max(top - REACH, 0), min(bottom + REACH, height)
    rows, wide, weighted = below - above, right - left, weight.size > 0
    first, last = max(left - REACH, 0), min(right + REACH, width)
    sign = np.float32(shares[0] * shares[2])
    for line in prange(channels * rows):
        c, i = line // rows, above + line % rows
        down = np.zeros((3, wide + 4 * REACH), np.float32)
        # Beyond the ends stands what is mirrored there: it gives its gradient to this row too.
        for mirror, place in enumerate((i, -i, 2 * (height - 1) - i)):
            if not (mirror and 0 <= place < height):
                _add_rows(slopes, c, place - top, down)
        beyond = np.empty((3, wide + 2 * REACH), np.float32)
        for m in range(3):
            source, total = down[m], beyond[m]
            for column in range(wide + 2 * REACH):
                total[column] = _sum_along(source, column)
            _fold(total, left - REACH, width)
        shift = first - (left - REACH)
        for column in range(first, last):
            at = shift + column - first
            a, b = x[c, i, column], y[c, i, column]
            gradient = beyond[0, at] + TWO * a * beyond[1, at] + b * beyond[2, at]
            if a != b:
                step = sign * weight[i, column] if weighted else sign
                gradient += step if a > b else -step
            out[c, i, column] = scale * gradient


@kernel()
def _where_different(x, y):
    """Rows and columns that hold all different pixels, ends excluded; empty where none differs."""
    channels, height, width = x.shape
    top, bottom, left, right = height, 0, width, 0
    for c in range(channels):
        for row in range(height):
            a, b = x[c, row], y[c, row]
            differs = False
            for column in range(width):
                # "!=" alone is not enough: pixels that are NaN in both images must be found too.
                differs |= a[column] != b[column]
            if not differs:
                continue
            top, bottom = min(top, row), max(bottom, row + 1)
            first, last = 0, width
            while a[first] == b[first]:
                first += 1
            while a[last - 1] == b[last - 1]:
                last -= 1
            left, right = min(left, first), max(right, last)
    return top, bottom, left, right


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, weight: Tensor | None, l1: float, ssim: float) -> Tensor:
        channels, height, width = x.shape
        images = tuple(t.detach().contiguous().numpy() for t in (x, y))
        weights = np.zeros((0, 0), np.float32)
        if weight is not None:
            weights = weight[0].detach().contiguous().numpy()
        top, bottom, left, right = _where_different(*images)
        ctx.box, ctx.shape = None, x.shape
        if top >= bottom:
            return x.new_zeros(())
        box = (
            max(top - REACH, 0), min(bottom + REACH, height),
            max(left - REACH, 0), min(right + REACH, width),
        )  # fmt: skip
        rows = min(box[1] + REACH, height) - max(box[0] - REACH, 0)
        shares = (l1, ssim, 1 / x.numel())
        size = box[1] - box[0], box[3] - box[2]
        moments = np.empty((5, channels, rows, size[1]), np.float32)
        _across(*images, box, moments)
        slopes, sums = np.empty((3, channels, *size), np.float32), np.empty((channels, size[0]))
        _compare(*images, weights, shares, box, moments, slopes, sums)
        ctx.box, ctx.shares = box, shares
        ctx.arrays = weights, slopes
        ctx.save_for_backward(x, y)
        return x.new_full((), float(sums.sum()) / x.numel())

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.box is None:
            return grad.new_zeros(ctx.shape), None, None, None, None
        weights, slopes = ctx.arrays
        x, y = (t.contiguous() for t in ctx.saved_tensors)
        out = torch.zeros_like(x)
        images = (t.numpy() for t in (x, y))
        scale = np.float32(grad.numpy())
        _differentiate(*images, weights, ctx.shares, ctx.box, slopes, scale, out.numpy())
        return out, None, None, None, None


def photometric(
    x: Float[Tensor, "c h w"],
    y: Float[Tensor, "c h w"],
    weight: Float[Tensor, "1 h w"] | None,
    l1: float,
    ssim: float,
) -> Float[Tensor, ""]:
    """``functional.photometric`` in float32; only ``x`` gets a gradient.

    Sides are of more than ``REACH`` pixels.
    """
    return _Photometric.apply(x, y, weight, l1, ssim)
