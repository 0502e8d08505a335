"""Projects Gaussians to the image on CUDA, with one kernel forward and one backward.

Does what ``cpu_project`` does, in float32. As a difference of products, a footprint's determinant
would lose its precision in float32. So it is computed from the rows x and y of the covariance's
square root: |x|^2 |y|^2 - (x.y)^2 = |x cross y|^2 (Lagrange).

For the image model see ``gaussian``; the box around a splat is by Radl et al. 2024,
arXiv:2402.00525, B.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel
from persona.types import Camera, Gaussians

BLOCK = 128
ALPHA_MIN = tl.constexpr(1 / 255)
"""A splat fainter than this at a pixel is skipped there."""
EXTENT_MAX = tl.constexpr(3.33)
"""A splat is cut this many standard deviations from its centre (sqrt(2 ln 255) is 3.329)."""
MARGIN = tl.constexpr(0.15)
"""Ray slopes are clamped at this share of the image beyond each edge, because the footprints of
Gaussians beside the camera would become huge."""


class Splats(NamedTuple):
    """Gaussians projected to the image."""

    means: Float[Tensor, "n 2"]
    """Centres, pixels."""
    conics: Float[Tensor, "n 3"]
    """Inverse covariances (xx, xy, yy) after the filter, per square pixel."""
    opacities: Float[Tensor, "n"]
    """Opacities, multiplied by the filter's factor."""
    radii: Int[Tensor, "n 2"]
    """Half the sides of the boxes, pixels; zero for Gaussians that are not drawn."""
    depths: Float[Tensor, "n"]
    """Camera z, metres."""


@triton_kernel
def _dot(a0, a1, a2, b0, b1, b2):
    return a0 * b0 + a1 * b1 + a2 * b2


@triton_kernel
def _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, x, y, z):
    return _dot(r00, r01, r02, x, y, z), _dot(r10, r11, r12, x, y, z), _dot(r20, r21, r22, x, y, z)


@triton_kernel
def _axes(
    r00, r01, r02, r10, r11, r12, r20, r21, r22,
    a00, a01, a02, a10, a11, a12, a20, a21, a22, s0, s1, s2,
):  # fmt: skip
    """Rows of the scaled axes in camera coordinates."""
    b00, b10, b20 = _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, a00, a10, a20)
    b01, b11, b21 = _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, a01, a11, a21)
    b02, b12, b22 = _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, a02, a12, a22)
    return b00 * s0, b01 * s1, b02 * s2, b10 * s0, b11 * s1, b12 * s2, b20 * s0, b21 * s1, b22 * s2


@triton_kernel
def _vector(ptr, row, rows, columns, used):
    """Loads three values of each row, by the strides of rows and columns."""
    at = ptr + rows * row
    first, second = tl.load(at, used, 0.0), tl.load(at + columns, used, 0.0)
    return first, second, tl.load(at + 2 * columns, used, 0.0)


@triton_kernel
def _view(pose_ptr, focal_ptr, center_ptr):
    """Loads the camera: rows of the rotation, shift, focal lengths and principal point."""
    r00, r01, r02, t0 = _row(pose_ptr)
    r10, r11, r12, t1 = _row(pose_ptr + 4)
    r20, r21, r22, t2 = _row(pose_ptr + 8)
    fx, fy = tl.load(focal_ptr), tl.load(focal_ptr + 1)
    cx, cy = tl.load(center_ptr), tl.load(center_ptr + 1)
    return r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, fx, fy, cx, cy


@triton_kernel
def _row(ptr):
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2), tl.load(ptr + 3)


@triton_kernel
def _turn(q_ptr, row, used):
    """The quaternion normalised, its length before that, and the rotation's rows."""
    w = tl.load(q_ptr + 4 * row, used, 1.0)
    x = tl.load(q_ptr + 4 * row + 1, used, 0.0)
    y = tl.load(q_ptr + 4 * row + 2, used, 0.0)
    z = tl.load(q_ptr + 4 * row + 3, used, 0.0)
    norm = tl.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    a00, a01, a02 = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    a10, a11, a12 = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    a20, a21, a22 = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return w, x, y, z, norm, a00, a01, a02, a10, a11, a12, a20, a21, a22


@triton_kernel
def _slope(along, depth, focal, centre, size):
    """Ray slope clamped to a margin around the image, and whether it was within it before."""
    low = -(centre + MARGIN * size) / focal
    high = (size - centre + MARGIN * size) / focal
    slope = along / depth
    return tl.minimum(tl.maximum(slope, low), high), (slope >= low) & (slope <= high)


@triton_kernel
def _footprint(fx, fy, mz, u, v, b00, b01, b02, b10, b11, b12, b20, b21, b22):
    """Two rows of the covariance's square root, from the axes in camera coordinates."""
    jx, jy = fx / mz, fy / mz
    x0, x1, x2 = jx * (b00 - u * b20), jx * (b01 - u * b21), jx * (b02 - u * b22)
    y0, y1, y2 = jy * (b10 - v * b20), jy * (b11 - v * b21), jy * (b12 - v * b22)
    return x0, x1, x2, y0, y1, y2


@triton_kernel
def _filtered(x0, x1, x2, y0, y1, y2, eps):
    """Covariance (a, b, c) before the filter, and its determinants before and after the filter."""
    a, b = _dot(x0, x1, x2, x0, x1, x2), _dot(x0, x1, x2, y0, y1, y2)
    c = _dot(y0, y1, y2, y0, y1, y2)
    n0, n1, n2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    raw = _dot(n0, n1, n2, n0, n1, n2)
    return a, b, c, raw, raw + eps * (a + c) + eps * eps


@triton_kernel
def _forward(
    mean_ptr, scale_ptr, quat_ptr, opacity_ptr, pose_ptr, focal_ptr, center_ptr,
    xy_ptr, conic_ptr, seen_ptr, radius_ptr, depth_ptr,
    count, scale_row, scale_column, near, far, eps, height, width, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * N + tl.arange(0, N)
    used = row < count
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, fx, fy, cx, cy = _view(
        pose_ptr, focal_ptr, center_ptr
    )
    w0, w1, w2 = _vector(mean_ptr, row, 3, 1, used)
    mx, my, mz = _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, w0, w1, w2)
    mx, my, mz = mx + t0, my + t1, mz + t2
    # Every test is written so that a NaN culls the Gaussian.
    drawn = used & (mz >= near) & (mz <= far)
    s0, s1, s2 = _vector(scale_ptr, row, scale_row, scale_column, used)
    _, _, _, _, _, a00, a01, a02, a10, a11, a12, a20, a21, a22 = _turn(quat_ptr, row, used)
    b00, b01, b02, b10, b11, b12, b20, b21, b22 = _axes(
        r00, r01, r02, r10, r11, r12, r20, r21, r22,
        a00, a01, a02, a10, a11, a12, a20, a21, a22, s0, s1, s2,
    )  # fmt: skip
    u, _ = _slope(mx, mz, fx, cx, width)
    v, _ = _slope(my, mz, fy, cy, height)
    x0, x1, x2, y0, y1, y2 = _footprint(
        fx, fy, mz, u, v, b00, b01, b02, b10, b11, b12, b20, b21, b22
    )
    a, b, c, raw, det = _filtered(x0, x1, x2, y0, y1, y2, eps)
    a, c = a + eps, c + eps
    drawn = drawn & (det > 0) & (det < float("inf"))
    opacity = tl.load(opacity_ptr + row, used, 0.0) * tl.sqrt(raw / det)
    drawn = drawn & (opacity >= ALPHA_MIN) & (opacity < float("inf"))
    extent = tl.minimum(EXTENT_MAX, tl.sqrt(2 * tl.log(opacity / ALPHA_MIN)))
    half_x, half_y = tl.ceil(extent * tl.sqrt(a)), tl.ceil(extent * tl.sqrt(c))
    # Round as on the CPU: Triton's own division is a few ulp off, which matters for large numbers
    # such as pixel coordinates.
    x, y = fx * tl.div_rn(mx, mz) + cx, fy * tl.div_rn(my, mz) + cy
    drawn = drawn & (x + half_x > 0) & (x - half_x < width)
    drawn = drawn & (y + half_y > 0) & (y - half_y < height)
    tl.store(xy_ptr + 2 * row, tl.where(drawn, x, 0.0), used)
    tl.store(xy_ptr + 2 * row + 1, tl.where(drawn, y, 0.0), used)
    tl.store(conic_ptr + 3 * row, tl.where(drawn, c / det, 0.0), used)
    tl.store(conic_ptr + 3 * row + 1, tl.where(drawn, -b / det, 0.0), used)
    tl.store(conic_ptr + 3 * row + 2, tl.where(drawn, a / det, 0.0), used)
    tl.store(seen_ptr + row, tl.where(drawn, opacity, 0.0), used)
    tl.store(radius_ptr + 2 * row, tl.where(drawn, half_x, 0.0).to(tl.int32), used)
    tl.store(radius_ptr + 2 * row + 1, tl.where(drawn, half_y, 0.0).to(tl.int32), used)
    tl.store(depth_ptr + row, tl.where(drawn, mz, 0.0), used)


@triton_kernel
def _covariance_gradient(a, b, c, raw, det, eps, opacity, ha, hb, hc, by_seen):
    """Gradients of the unfiltered covariance and of the opacity.

    They are computed from the gradients of the conic and of the filtered opacity.
    """
    aa, cc = a + eps, c + eps
    qa, qb, qc = cc / det, -b / det, aa / det
    hb = 0.5 * hb
    # d(Q) = -Q d(covariance) Q.
    ga = -(qa * (qa * ha + qb * hb) + qb * (qa * hb + qb * hc))
    gc = -(qb * (qb * ha + qc * hb) + qc * (qb * hb + qc * hc))
    gb = -2 * (qa * (qb * ha + qc * hb) + qb * (qb * hb + qc * hc))
    ratio = raw / det
    factor = tl.sqrt(ratio)
    by_ratio = 0.5 * opacity * by_seen / factor
    ga += by_ratio * (c - ratio * cc) / det
    gc += by_ratio * (a - ratio * aa) / det
    gb += by_ratio * 2 * b * (ratio - 1) / det
    return ga, gb, gc, factor * by_seen


@triton_kernel
def _store_turn_gradient(
    ptr, row, used, w, x, y, z, norm, g00, g01, g02, g10, g11, g12, g20, g21, g22
):
    """Stores the gradient of a quaternion of any length, from the gradient of its rotation."""
    gw = 2 * (x * (g21 - g12) + y * (g02 - g20) + z * (g10 - g01))
    gx = 2 * (y * (g01 + g10) + z * (g02 + g20) + w * (g21 - g12)) - 4 * x * (g11 + g22)
    gy = 2 * (x * (g01 + g10) + z * (g12 + g21) + w * (g02 - g20)) - 4 * y * (g00 + g22)
    gz = 2 * (x * (g02 + g20) + y * (g12 + g21) + w * (g10 - g01)) - 4 * z * (g00 + g11)
    along = w * gw + x * gx + y * gy + z * gz
    tl.store(ptr + 4 * row, (gw - w * along) / norm, used)
    tl.store(ptr + 4 * row + 1, (gx - x * along) / norm, used)
    tl.store(ptr + 4 * row + 2, (gy - y * along) / norm, used)
    tl.store(ptr + 4 * row + 3, (gz - z * along) / norm, used)


@triton_kernel
def _backward(
    mean_ptr, scale_ptr, quat_ptr, opacity_ptr, pose_ptr, focal_ptr, center_ptr, radius_ptr,
    by_xy_ptr, by_conic_ptr, by_seen_ptr, by_mean_ptr, by_scale_ptr, by_quat_ptr, by_opacity_ptr,
    count, scale_row, scale_column, xy_row, conic_row, seen_row, eps, height, width,
    N: tl.constexpr,
):  # fmt: skip
    """Gradients with respect to the Gaussians.

    Outputs must be zero before: those of Gaussians that are not drawn are not written.
    """
    row = tl.program_id(0) * N + tl.arange(0, N)
    used = row < count
    used = used & (tl.load(radius_ptr + 2 * row, used, 0) > 0)
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, fx, fy, cx, cy = _view(
        pose_ptr, focal_ptr, center_ptr
    )
    w0, w1, w2 = _vector(mean_ptr, row, 3, 1, used)
    mx, my, mz = _rotated(r00, r01, r02, r10, r11, r12, r20, r21, r22, w0, w1, w2)
    mx, my, mz = mx + t0, my + t1, mz + t2
    s0, s1, s2 = _vector(scale_ptr, row, scale_row, scale_column, used)
    qw, qx, qy, qz, norm, a00, a01, a02, a10, a11, a12, a20, a21, a22 = _turn(quat_ptr, row, used)
    b00, b01, b02, b10, b11, b12, b20, b21, b22 = _axes(
        r00, r01, r02, r10, r11, r12, r20, r21, r22,
        a00, a01, a02, a10, a11, a12, a20, a21, a22, s0, s1, s2,
    )  # fmt: skip
    u, u_free = _slope(mx, mz, fx, cx, width)
    v, v_free = _slope(my, mz, fy, cy, height)
    x0, x1, x2, y0, y1, y2 = _footprint(
        fx, fy, mz, u, v, b00, b01, b02, b10, b11, b12, b20, b21, b22
    )
    a, b, c, raw, det = _filtered(x0, x1, x2, y0, y1, y2, eps)

    ha, hb, hc = _vector(by_conic_ptr, row, conic_row, 1, used)
    ga, gb, gc, by_opacity = _covariance_gradient(
        a, b, c, raw, det, eps, tl.load(opacity_ptr + row, used, 0.0),
        ha, hb, hc, tl.load(by_seen_ptr + seen_row * row, used, 0.0),
    )  # fmt: skip
    tl.store(by_opacity_ptr + row, by_opacity, used)
    # p and q are the gradients of the footprint's rows x and y, times fx and fy. The Jacobian's
    # rows are fx / z (1, 0, -u) and fy / z (0, 1, -v).
    inv = 1 / mz
    p0, p1, p2 = (
        fx * (2 * ga * x0 + gb * y0), fx * (2 * ga * x1 + gb * y1), fx * (2 * ga * x2 + gb * y2),
    )  # fmt: skip
    q0, q1, q2 = (
        fy * (2 * gc * y0 + gb * x0), fy * (2 * gc * y1 + gb * x1), fy * (2 * gc * y2 + gb * x2),
    )  # fmt: skip
    jx, jxz = _dot(p0, p1, p2, b00, b01, b02), _dot(p0, p1, p2, b20, b21, b22)
    jy, jyz = _dot(q0, q1, q2, b10, b11, b12), _dot(q0, q1, q2, b20, b21, b22)
    gx = fx * inv * tl.load(by_xy_ptr + xy_row * row, used, 0.0)
    gy = fy * inv * tl.load(by_xy_ptr + xy_row * row + 1, used, 0.0)
    gz = -inv * (gx * mx + gy * my) + inv * inv * (u * jxz + v * jyz - jx - jy)
    jxz, jyz = tl.where(u_free, inv * inv * jxz, 0.0), tl.where(v_free, inv * inv * jyz, 0.0)
    gx, gy, gz = gx - jxz, gy - jyz, gz + u * jxz + v * jyz
    gx, gy, gz = _rotated(r00, r10, r20, r01, r11, r21, r02, r12, r22, gx, gy, gz)
    tl.store(by_mean_ptr + 3 * row, gx, used)
    tl.store(by_mean_ptr + 3 * row + 1, gy, used)
    tl.store(by_mean_ptr + 3 * row + 2, gz, used)
    # Gradients of the axes in camera coordinates, then turned into the world's.
    p0, p1, p2, q0, q1, q2 = inv * p0, inv * p1, inv * p2, inv * q0, inv * q1, inv * q2
    n0, n1, n2 = -(u * p0 + v * q0), -(u * p1 + v * q1), -(u * p2 + v * q2)
    g00, g10, g20 = _rotated(r00, r10, r20, r01, r11, r21, r02, r12, r22, p0, q0, n0)
    g01, g11, g21 = _rotated(r00, r10, r20, r01, r11, r21, r02, r12, r22, p1, q1, n1)
    g02, g12, g22 = _rotated(r00, r10, r20, r01, r11, r21, r02, r12, r22, p2, q2, n2)
    tl.store(by_scale_ptr + 3 * row, _dot(g00, g10, g20, a00, a10, a20), used)
    tl.store(by_scale_ptr + 3 * row + 1, _dot(g01, g11, g21, a01, a11, a21), used)
    tl.store(by_scale_ptr + 3 * row + 2, _dot(g02, g12, g22, a02, a12, a22), used)
    _store_turn_gradient(
        by_quat_ptr, row, used, qw, qx, qy, qz, norm,
        g00 * s0, g01 * s1, g02 * s2, g10 * s0, g11 * s1, g12 * s2, g20 * s0, g21 * s1, g22 * s2,
    )  # fmt: skip


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, scales, quaternions, opacities, view, bounds):
        count, (near, far, eps, height, width) = len(means), bounds
        means, quaternions, opacities = (t.contiguous() for t in (means, quaternions, opacities))
        out = Splats(
            means.new_empty(count, 2), means.new_empty(count, 3), means.new_empty(count),
            means.new_empty(count, 2, dtype=torch.int32), means.new_empty(count),
        )  # fmt: skip
        _forward[(triton.cdiv(count, BLOCK),)](
            means, scales, quaternions, opacities, *view, *out,
            count, *scales.stride(), near, far, eps, height, width, BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(means, scales, quaternions, opacities, *view, out.radii)
        ctx.sizes = eps, height, width
        ctx.mark_non_differentiable(out.radii, out.depths)
        return tuple(out)

    @staticmethod
    @first_order
    def backward(ctx, by_means, by_conics, by_opacities, *_):
        means, scales, quaternions, opacities, *rest = ctx.saved_tensors
        # Compositing gives gradients as columns of one table, so rows may be strided.
        by_means, by_conics = (
            t if t.stride(1) == 1 else t.contiguous() for t in (by_means, by_conics)
        )
        given = (by_means, by_conics, by_opacities)
        grads = [torch.zeros_like(t) for t in (means, means, quaternions, opacities)]
        _backward[(triton.cdiv(len(means), BLOCK),)](
            means, scales, quaternions, opacities, *rest, *given, *grads,
            len(means), *scales.stride(), *(t.stride(0) for t in given), *ctx.sizes, BLOCK,
        )  # fmt: skip
        return *grads, None, None


def project(
    gaussians: Gaussians, camera: Camera, *, near_m: float, far_m: float, eps2d: float
) -> Splats:
    """Projects Gaussians, with gradient to all their parameters and none to the camera.

    Args:
        gaussians: Gaussians in the camera's world, at least one.
        camera: One camera, without batch.
        near_m: Gaussians nearer than this camera depth are not drawn.
        far_m: Gaussians farther than this are not drawn.
        eps2d: Variance of the 2D filter, square pixels.
    """
    g = gaussians
    means, scales, quaternions, opacities = (
        t.float() for t in (g.means, g.scales, g.quaternions, g.opacities)
    )
    parts = camera.cam_from_world, camera.focal_px, camera.center_px
    view = tuple(t.detach().to(means).contiguous() for t in parts)
    bounds = near_m, far_m, eps2d, camera.height, camera.width
    return Splats(*_Project.apply(means, scales, quaternions, opacities, view, bounds))
