"""Numba kernels that project Gaussians to the image and carry the gradient back.

All arithmetic is in double precision, because float32 loses the determinant of thin footprints;
fourteen thousand Gaussians still take well under a millisecond. Matrices are tuples of rows, which
numba keeps in registers.
"""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from numba import prange
from numpy import ndarray

from persona.modules.render.jit import kernel

TILE = 16
"""Side of a tile, pixels."""

ALPHA_MIN = 1 / 255
"""A splat fainter than this at a pixel is skipped there."""

Row = tuple[float, float, float]
Rows = tuple[Row, ...]
"""A matrix as numba keeps it in registers."""

Arrays = tuple[ndarray, ndarray, ndarray, ndarray]
"""Means (n, 3), scales (n, 3), quaternions (n, 4) and opacities (n,), or their gradients."""

EXTENT_MAX = 3.33
"""A splat is cut this many standard deviations from its centre (sqrt(2 ln 255) is 3.329)."""

SPLAT_SIZE = 10
"""x, y, conic (a, b, c), opacity, then what the row solver needs: 2 a s, det, 1 / a, half height,
where the splat is visible within a dx^2 + 2 b dx dy + c dy^2 <= 2 s."""

FOOTPRINT_GRADS = 6
"""Gradients that reach a splat: x, y, a, b, c, opacity."""


@kernel()
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel()
def _scaled(a, s):
    return (a[0] * s, a[1] * s, a[2] * s)


@kernel()
def _transpose(m):
    return (
        (m[0][0], m[1][0], m[2][0]),
        (m[0][1], m[1][1], m[2][1]),
        (m[0][2], m[1][2], m[2][2]),
    )


@kernel()
def _row_times(a, m):
    """Row vector times matrix."""
    return (
        a[0] * m[0][0] + a[1] * m[1][0] + a[2] * m[2][0],
        a[0] * m[0][1] + a[1] * m[1][1] + a[2] * m[2][1],
        a[0] * m[0][2] + a[1] * m[1][2] + a[2] * m[2][2],
    )


@kernel()
def _product(a, b):
    return (_row_times(a[0], b), _row_times(a[1], b), _row_times(a[2], b))


@kernel()
def _vector(array, i):
    return (float(array[i, 0]), float(array[i, 1]), float(array[i, 2]))


@kernel()
def _unit_quaternion(quats, i):
    """Normalised (w, x, y, z) and the length."""
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return (w / norm, x / norm, y / norm, z / norm), norm


@kernel()
def _turns(quats, i):
    """Whether a quaternion is a rotation: finite, and not zero."""
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    return 0 < w * w + x * x + y * y + z * z < math.inf


@kernel()
def _rotation(q):
    w, x, y, z = q
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@kernel()
def _rotation_grad(q, norm, g):
    """Gradient of the raw quaternion from that of its rotation matrix."""
    w, x, y, z = q
    gw = 2 * (x * (g[2][1] - g[1][2]) + y * (g[0][2] - g[2][0]) + z * (g[1][0] - g[0][1]))
    gx = 2 * (
        y * (g[0][1] + g[1][0]) + z * (g[0][2] + g[2][0]) + w * (g[2][1] - g[1][2])
    ) - 4 * x * (g[1][1] + g[2][2])
    gy = 2 * (
        x * (g[0][1] + g[1][0]) + z * (g[1][2] + g[2][1]) + w * (g[0][2] - g[2][0])
    ) - 4 * y * (g[0][0] + g[2][2])
    gz = 2 * (
        x * (g[0][2] + g[2][0]) + y * (g[1][2] + g[2][1]) + w * (g[1][0] - g[0][1])
    ) - 4 * z * (g[0][0] + g[1][1])
    along = w * gw + x * gx + y * gy + z * gz
    return (
        (gw - w * along) / norm,
        (gx - x * along) / norm,
        (gy - y * along) / norm,
        (gz - z * along) / norm,
    )


@kernel()
def _clamp(value, low, high):
    """The value within [low, high] and whether it was there already."""
    return min(high, max(low, value)), low <= value <= high


@kernel()
def _footprint(mean: Row, scale: Row, rotation: Rows, view: tuple) -> tuple:
    """Splat before the filter.

    Args:
        mean: Camera coordinates, metres.
        scale: Standard deviations, metres.
        rotation: Camera from Gaussian axes.
        view: (rotation, shift, (fx, fy, cx, cy), (low, high) of x/z, (low, high) of y/z).

    Returns:
        (u, v): the ray slopes at which the projection is linearised, clamped to a margin around
            the image so that Gaussians beside the camera do not blow up; whether each is free of
            the clamp; the two rows of the 2 x 3 square root of the covariance, square pixels.
    """
    fx, fy = view[2][0], view[2][1]
    inv = 1 / mean[2]
    u, u_free = _clamp(mean[0] * inv, view[3][0], view[3][1])
    v, v_free = _clamp(mean[1] * inv, view[4][0], view[4][1])
    axes = (
        (rotation[0][0] * scale[0], rotation[0][1] * scale[1], rotation[0][2] * scale[2]),
        (rotation[1][0] * scale[0], rotation[1][1] * scale[1], rotation[1][2] * scale[2]),
        (rotation[2][0] * scale[0], rotation[2][1] * scale[1], rotation[2][2] * scale[2]),
    )
    row_x = _row_times((fx * inv, 0.0, -fx * u * inv), axes)
    row_y = _row_times((0.0, fy * inv, -fy * v * inv), axes)
    return (u, v), (u_free, v_free), axes, (row_x, row_y)


@kernel()
def _tile_range(centre, half, size):
    """First and one past the last tile of a pixel interval, clipped to the image."""
    tiles = (size + TILE - 1) // TILE
    low = max(0.0, math.floor((centre - half) / TILE))
    high = min(float(tiles), math.ceil((centre + half) / TILE))
    return int(low), int(high)


@kernel(error_model="numpy")
def _camera_point(world, view):
    return (
        _dot(view[0][0], world) + view[1][0],
        _dot(view[0][1], world) + view[1][1],
        _dot(view[0][2], world) + view[1][2],
    )


@kernel(error_model="numpy")
def _unpack_view(view):
    """(rotation rows, shift, (fx, fy, cx, cy), low and high x/z, low and high y/z)."""
    return (
        ((view[0], view[1], view[2]), (view[3], view[4], view[5]), (view[6], view[7], view[8])),
        (view[9], view[10], view[11]),
        (view[12], view[13], view[14], view[15]),
        (view[16], view[17]),
        (view[18], view[19]),
    )


@kernel(error_model="numpy")
def _project_one(mean, rows, opacity, view, bounds, splat, tiles):
    """Writes the splat and tiles of a Gaussian in depth range, or nothing if it is invisible."""
    _, _, eps, height, width = bounds
    aa, bb, cc = _dot(rows[0], rows[0]), _dot(rows[0], rows[1]), _dot(rows[1], rows[1])
    det_raw = aa * cc - bb * bb
    aa += eps
    cc += eps
    det = aa * cc - bb * bb
    # Every test is written so that a NaN culls the Gaussian.
    if not (det > 0 and det < math.inf):
        return
    opacity *= math.sqrt(max(0.0, det_raw / det))
    if not (opacity >= ALPHA_MIN and opacity < math.inf):
        return
    extent = min(EXTENT_MAX, math.sqrt(2 * math.log(opacity / ALPHA_MIN)))
    half_x, half_y = math.ceil(extent * math.sqrt(aa)), math.ceil(extent * math.sqrt(cc))
    x = view[2][0] * mean[0] / mean[2] + view[2][2]
    y = view[2][1] * mean[1] / mean[2] + view[2][3]
    if not (x + half_x > 0 and x - half_x < width and y + half_y > 0 and y - half_y < height):
        return
    tiles[0], tiles[1] = _tile_range(x, half_x, width)
    tiles[2], tiles[3] = _tile_range(y, half_y, height)
    # The row solver only narrows the search, so it looks a little too far.
    squared = extent * extent + 2e-3
    splat[0], splat[1] = x, y
    inv = 1 / det
    splat[2], splat[3], splat[4] = cc * inv, -bb * inv, aa * inv
    splat[5] = opacity
    splat[6], splat[7] = squared * cc * inv, inv
    splat[8], splat[9] = det / cc, math.sqrt(squared * cc)


@kernel(parallel=True, error_model="numpy")
def project(
    gaussians: Arrays,
    view: Float[ndarray, "20"],
    bounds: tuple[float, float, float, int, int],
    splats: Float[ndarray, "n 10"],
    depths: Float[ndarray, "n"],
    tiles: Int[ndarray, "n 4"],
) -> None:
    """Projects every Gaussian.

    Args:
        gaussians: In world coordinates.
        view: See ``_unpack_view``.
        bounds: (near, far, eps2d, height, width).
        splats: Output, SPLAT_SIZE numbers each.
        depths: Output, metres.
        tiles: Output, x0, x1, y0, y1; must be zero, and stays zero where culled.
    """
    means, scales, quats, opacities = gaussians
    near, far = bounds[:2]
    for i in prange(len(means)):
        seen = _unpack_view(view)
        mean = _camera_point(_vector(means, i), seen)
        if not (mean[2] >= near and mean[2] <= far):
            continue
        depths[i] = mean[2]
        scale = _vector(scales, i)
        rotation = seen[0]
        # A ball looks the same however it is turned: an avatar's Gaussians are balls.
        if not (scale[0] == scale[1] == scale[2] and _turns(quats, i)):
            rotation = _product(rotation, _rotation(_unit_quaternion(quats, i)[0]))
        rows = _footprint(mean, scale, rotation, seen)[3]
        _project_one(mean, rows, float(opacities[i]), seen, bounds, splats[i], tiles[i])


@kernel(error_model="numpy")
def _covariance_grad(cov: Row, eps: float, opacity: float, g_conic: Row, g_filtered: float):
    """Gradients of the raw covariance (a, b, c) and of the Gaussian's own opacity.

    Args:
        cov: (a, b, c), square pixels, before the filter.
        eps: Variance of the filter.
        opacity: The Gaussian's.
        g_conic: Gradients of a, b, c where sigma = (a dx^2 + c dy^2) / 2 + b dx dy.
        g_filtered: Gradient of the opacity times the filter's factor.
    """
    aa, bb, cc = cov[0] + eps, cov[1], cov[2] + eps
    det = aa * cc - bb * bb
    qa, qb, qc = cc / det, -bb / det, aa / det
    # d(Q) = -Q d(cov) Q
    ha, hb, hc = g_conic[0], 0.5 * g_conic[1], g_conic[2]
    ga = -(qa * (qa * ha + qb * hb) + qb * (qa * hb + qb * hc))
    gc = -(qb * (qb * ha + qc * hb) + qc * (qb * hb + qc * hc))
    gb = -2 * (qa * (qb * ha + qc * hb) + qb * (qb * hb + qc * hc))
    ratio = (cov[0] * cov[2] - bb * bb) / det
    factor = math.sqrt(ratio)
    g_ratio = 0.5 * opacity * g_filtered / factor
    ga += g_ratio * (cov[2] - ratio * cc) / det
    gc += g_ratio * (cov[0] - ratio * aa) / det
    gb += g_ratio * 2 * bb * (ratio - 1) / det
    return (ga, gb, gc), factor * g_filtered


@kernel(error_model="numpy")
def _projection_grad(mean, footprint, g_rows, g_xy, view):
    """Gradients of the camera-space mean and of the camera-space axes."""
    (u, v), (u_free, v_free), axes, _ = footprint
    fx, fy = view[2][0], view[2][1]
    inv = 1 / mean[2]
    g_axes = (
        _scaled(g_rows[0], fx * inv),
        _scaled(g_rows[1], fy * inv),
        (
            -inv * (fx * u * g_rows[0][0] + fy * v * g_rows[1][0]),
            -inv * (fx * u * g_rows[0][1] + fy * v * g_rows[1][1]),
            -inv * (fx * u * g_rows[0][2] + fy * v * g_rows[1][2]),
        ),
    )
    # The Jacobian's rows are fx / z (1, 0, -u) and fy / z (0, 1, -v).
    jx, jxz = fx * _dot(g_rows[0], axes[0]), fx * _dot(g_rows[0], axes[2])
    jy, jyz = fy * _dot(g_rows[1], axes[1]), fy * _dot(g_rows[1], axes[2])
    gx, gy = fx * inv * g_xy[0], fy * inv * g_xy[1]
    gz = -inv * (gx * mean[0] + gy * mean[1])
    gz += inv * inv * (u * jxz + v * jyz - jx - jy)
    if u_free:
        gx -= inv * inv * jxz
        gz += inv * inv * u * jxz
    if v_free:
        gy -= inv * inv * jyz
        gz += inv * inv * v * jyz
    return (gx, gy, gz), g_axes


@kernel(error_model="numpy")
def _turn_grad(turn, scale, quat, norm, g_local):
    """Gradients of the scales and of the raw quaternion from those of the world axes."""
    columns, g_columns = _transpose(turn), _transpose(g_local)
    g_scale = (
        _dot(g_columns[0], columns[0]),
        _dot(g_columns[1], columns[1]),
        _dot(g_columns[2], columns[2]),
    )
    g_turn = _transpose(
        (
            _scaled(g_columns[0], scale[0]),
            _scaled(g_columns[1], scale[1]),
            _scaled(g_columns[2], scale[2]),
        )
    )
    return g_scale, _rotation_grad(quat, norm, g_turn)


@kernel()
def _unturned(quats, i):
    """Whether a quaternion is (1, 0, 0, 0), as PERSONA's and ExAvatar's are."""
    return quats[i, 0] == 1 and quats[i, 1] == 0 and quats[i, 2] == 0 and quats[i, 3] == 0


@kernel()
def _turn(quats, i):
    """Rotation, normalised quaternion and its length."""
    if _unturned(quats, i):
        return ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (1.0, 0.0, 0.0, 0.0), 1.0
    quat, norm = _unit_quaternion(quats, i)
    return _rotation(quat), quat, norm


@kernel()
def _turned_axes(quats, i, rotation, turn):
    """The product of two rotations, of which the second is the quaternion's."""
    return rotation if _unturned(quats, i) else _product(rotation, turn)


@kernel(error_model="numpy")
def _scale_and_turn_grad(quats, i, by_quats, turn, scale, quat, norm, g_local):
    """As ``_turn_grad``; the quaternion's is zero where nobody wants it and nothing is turned."""
    if by_quats or not _unturned(quats, i):
        return _turn_grad(turn, scale, quat, norm, g_local)
    return (g_local[0][0], g_local[1][1], g_local[2][2]), (0.0, 0.0, 0.0, 0.0)


@kernel(parallel=True, error_model="numpy")
def project_backward(
    gaussians: Arrays,
    view: Float[ndarray, "20"],
    eps: float,
    tiles: Int[ndarray, "n 4"],
    g_splats: Float[ndarray, "n _"],
    grads: Arrays,
    by_quats: bool,
) -> None:
    """Carries splat gradients back to the Gaussians.

    Args:
        gaussians: As in ``project``.
        view: As in ``project``.
        eps: Variance of the 2D filter.
        tiles: As ``project`` wrote them; a Gaussian without tiles has no gradient.
        g_splats: FOOTPRINT_GRADS numbers each, and what may be behind them.
        grads: Outputs; must be zero.
        by_quats: Whether anybody wants the gradient of the quaternions; if not, it may stay zero.
    """
    means, scales, quats, opacities = gaussians
    g_means, g_scales, g_quats, g_opacities = grads
    for i in prange(len(means)):
        if tiles[i, 1] <= tiles[i, 0] or tiles[i, 3] <= tiles[i, 2]:
            continue
        seen = _unpack_view(view)
        world, scale = _vector(means, i), _vector(scales, i)
        mean = _camera_point(world, seen)
        turn, quat, norm = _turn(quats, i)
        axes = _turned_axes(quats, i, seen[0], turn)
        footprint = _footprint(mean, scale, axes, seen)
        x, y = footprint[3]
        cov = (_dot(x, x), _dot(x, y), _dot(y, y))
        g = g_splats[i]
        g_conic = (float(g[2]), float(g[3]), float(g[4]))
        (ga, gb, gc), g_opacities[i] = _covariance_grad(
            cov, eps, float(opacities[i]), g_conic, float(g[5])
        )
        g_rows = (
            (2 * ga * x[0] + gb * y[0], 2 * ga * x[1] + gb * y[1], 2 * ga * x[2] + gb * y[2]),
            (2 * gc * y[0] + gb * x[0], 2 * gc * y[1] + gb * x[1], 2 * gc * y[2] + gb * x[2]),
        )
        g_mean, g_axes = _projection_grad(mean, footprint, g_rows, (float(g[0]), float(g[1])), seen)
        g_world = _row_times(g_mean, seen[0])
        g_local = _product(_transpose(seen[0]), g_axes)
        g_scale, g_quat = _scale_and_turn_grad(quats, i, by_quats, turn, scale, quat, norm, g_local)
        for k in range(3):
            g_means[i, k], g_scales[i, k] = g_world[k], g_scale[k]
        for k in range(4):
            g_quats[i, k] = g_quat[k]
