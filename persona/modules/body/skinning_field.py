"""Skinning weights of any point near the body: surface weights diffused into a voxel grid."""

import hashlib
import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float16
from numba import prange
from torch import Tensor, nn

from persona.modules.body.nearest_cpu import nearest_points
from persona.modules.cache import cache_folder, cached_file
from persona.modules.render.jit import kernel

GROWTH = 0.3
"""Margin of the grid on each side, in sizes of the body's box."""
SURFACE_M = 0.02
"""Voxels this near to a vertex keep its weights."""
RATE = 0.1
"""Step of the diffusion. Below 1/6 a step is a mean of values, so no weight turns negative."""
NUM_DIFFUSED = 25
"""The joints up to here spread; the finger joints behind them keep the nearest vertex's weights."""
STENCIL = ((0.0, 1.0), (-1.0, 0.5), (1.0, 0.5), (-2.0, 0.3), (2.0, 0.3))
"""(sigmas along an axis, weight); the first entry, the centre, counts once, not per axis."""
_VERSION = "1"

logger = logging.getLogger(__name__)


class SkinningField(nn.Module):
    """A grid of skinning weights over the canonical body's box, sampled around each Gaussian.

    Source: PERSONA, arXiv:2508.09973.
    """

    grid: Float[Tensor, "x y z j"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    last_node: Float[Tensor, "3"]
    """Index of the last node along each axis."""

    def __init__(
        self,
        grid: Float[Tensor, "x y z j"],
        low: Float[Tensor, "3"],
        high: Float[Tensor, "3"],
    ):
        """Wraps a grid whose first and last nodes lie on the box corners ``low``, ``high`` (m)."""
        super().__init__()
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        last_node = torch.tensor(grid.shape[:3]).to(low) - 1
        self.register_buffer("last_node", last_node, persistent=False)
        self._half: Tensor | None = None

    @classmethod
    def build(
        cls,
        vertices: Float[Tensor, "p 3"],
        weights: Float[Tensor, "p j"],
        resolution: int = 128,
        steps: int = 100,
        cache_dir: str | Path | None = None,
    ) -> "SkinningField":
        """Diffuses the surface weights, or reads the result of an earlier run.

        Args:
            vertices: Canonical body, metres.
            weights: Skinning weights of the vertices.
            resolution: Nodes per axis (at least 2). 128 takes 461 MB in memory, 64 takes 58 MB.
            steps: Diffusion steps.
            cache_dir: Where results are kept, named by a hash of all that they depend on. By
                default the folder named by PERSONA_CACHE, else ``~/.cache/persona``.

        Raises:
            UserError: The cache cannot be written.
        """
        vertices, weights = vertices.detach().float().cpu(), weights.detach().float().cpu()
        low, high = vertices.min(0).values, vertices.max(0).values
        margin = GROWTH * (high - low)
        low, high = low - margin, high + margin
        path = _cache_path(vertices, weights, (resolution, steps), cache_dir)
        grid = _read(path, resolution, weights.shape[1])
        if grid is None:
            logger.info("Diffusing skinning weights into %d^3 voxels", resolution)
            box = zip(low.tolist(), high.tolist(), strict=True)
            nodes = [np.linspace(*ends, resolution, dtype=np.float32) for ends in box]
            grid = _diffused_grid(nodes, vertices.numpy(), weights.numpy(), steps)
            _write(path, grid)
        return cls(torch.from_numpy(grid).float(), low, high)  # Torch has threads, numpy one.

    def forward(
        self,
        means: Float[Tensor, "n 3"],
        scales: Float[Tensor, "n"],
        differentiable: bool = False,
        given: Bool[Tensor, "n"] | None = None,
        own: Float[Tensor, "n j"] | None = None,
    ) -> Float[Tensor, "n j"]:
        """Weights of Gaussians: a weighted mean over 13 points, one to two sigma along each axis.

        Points outside the box take the weights of its border.

        Args:
            means: Canonical frame, metres.
            scales: Standard deviations, metres; always detached.
            differentiable: Whether the weights pass a gradient to the means. Off by default: the
                interpolated weights change in jumps at the voxels' sides, and on the packaged body
                (128^3, poses of 0.3 rad, ``benchmarks/skinning.py``) they change the gradient of
                the posed means by 4 % (median vector; 20 % of the whole, cosine 0.98), for 2.5
                times the cost on a GPU and over ten times on a CPU.
            given: Gaussians that keep weights of their own.
            own: Weights of the given ones; the other rows are not read.

        Returns:
            Rows that sum to one.

        Raises:
            ValueError: ``given`` or ``own`` has another number of rows than ``means``.
        """
        if any(t is not None and len(t) != len(means) for t in (given, own)):
            raise ValueError(f"{len(means)} Gaussians need as many rows of given weights")
        if not differentiable and means.device.type in ("cpu", "cuda"):
            to_nodes = self.last_node / (self.high - self.low)
            points = (means.detach() - self.low) * to_nodes
            sigmas = scales.detach()[:, None] * to_nodes
            return self._look_up(points, sigmas, given, own).to(means.dtype)
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            weights = self._sample_torch(means, scales.detach())
            return _with_own(weights, given, own)

    def _look_up(
        self,
        points: Float[Tensor, "n 3"],
        sigmas: Float[Tensor, "n 3"],
        given: Bool[Tensor, "n"] | None,
        own: Float[Tensor, "n j"] | None,
    ) -> Float[Tensor, "n j"]:
        """Weights at points given in nodes, by a kernel of the device."""
        if points.device.type == "cuda":
            from persona.modules.body.skinning_triton import look_up

            return look_up(self._packed(), points, sigmas, self.grid.shape[-1], given, own)
        weights = torch.empty(len(points), self.grid.shape[-1])
        keeps = torch.zeros(len(points), dtype=torch.bool)
        if given is not None and own is not None:
            weights, keeps = (
                own.detach().float().clone(memory_format=torch.contiguous_format),
                given,
            )
        arrays = (t.float().numpy() for t in (self.grid, points, sigmas))
        _sample(*arrays, keeps.numpy(), weights.numpy())
        return weights

    def _packed(self) -> Float16[Tensor, "x y z padded"]:
        """The grid as CUDA reads it, made once: half (it is kept as half), joints padded."""
        if self._half is None or self._half.device != self.grid.device:
            from persona.modules.body.skinning_triton import JOINTS

            self._half = F.pad(self.grid.half(), (0, JOINTS - self.grid.shape[-1]))
        return self._half

    def _sample_torch(self, means: Tensor, scales: Tensor) -> Tensor:
        """The same with autograd, and on any device."""
        # The volume's axes run x, y, z; grid_sample wants points with the last one first.
        volume = self.grid.permute(3, 0, 1, 2)[None].to(means.dtype)
        unit = (2 * (means - self.low) / (self.high - self.low) - 1).flip(-1)
        sigmas = (2 * scales[:, None] / (self.high - self.low)).unbind(-1)
        total = means.new_zeros(1)
        for entry, (shift, weight) in enumerate(STENCIL):
            for axis in range(3 if entry else 1):
                point = list(unit.unbind(-1))
                point[2 - axis] = point[2 - axis] + shift * sigmas[axis]
                # One sample at a time: all 13 together would take 0.5 GB at 167 K Gaussians.
                at = torch.stack(point, -1)[None, None, None]
                sampled = F.grid_sample(volume, at, padding_mode="border", align_corners=True)
                total = torch.add(total, sampled[0, :, 0, 0], alpha=weight)
        return (total / total.sum(0)).T.contiguous()


def _with_own(
    weights: Float[Tensor, "n j"],
    given: Bool[Tensor, "n"] | None,
    own: Float[Tensor, "n j"] | None,
) -> Float[Tensor, "n j"]:
    """The given Gaussians' own weights in place of those that were looked up."""
    return weights if given is None or own is None else torch.where(given[:, None], own, weights)


def _diffused_grid(
    nodes: list[np.ndarray], vertices: np.ndarray, weights: np.ndarray, steps: int
) -> np.ndarray:
    """Weights per voxel (x, y, z, j), float16, rows of sum one."""
    shape = tuple(map(len, nodes))
    nearest, distance = nearest_points(nodes, vertices)
    rate = np.where(distance < SURFACE_M, np.float32(0), np.float32(RATE))
    columns = np.ascontiguousarray(weights.T)
    # One joint at a time: a channel and its copy stay in the processor's cache.
    diffused = {
        joint: _diffuse(columns[joint].take(nearest), rate, steps)
        for joint in range(min(NUM_DIFFUSED, len(columns)))
        if columns[joint].any()
    }
    grid = np.empty((*shape, len(columns)), np.float16)
    values = np.empty((len(columns), *shape[1:]), np.float32)
    # And one slab of all joints, for they lie side by side in the grid.
    for i in range(shape[0]):
        for joint, column in enumerate(columns):
            values[joint] = diffused[joint][i] if joint in diffused else column.take(nearest[i])
        # By torch, which has the processor convert halves: numpy does it in software.
        half = torch.from_numpy(values).half().float() / torch.from_numpy(values.sum(0))
        torch.from_numpy(grid[i]).copy_(half.permute(1, 2, 0))
    return grid


@kernel(parallel=True)
def _diffuse(values, rate, steps):
    """Jacobi steps of f += rate * Laplacian(f), six neighbours, the border replicated."""
    nx, ny, nz = values.shape
    six = np.float32(6)
    new = np.empty_like(values)
    for _ in range(steps):
        for x in prange(nx):
            for y in range(ny):
                here, r, out = values[x, y], rate[x, y], new[x, y]
                back, front = values[max(x - 1, 0), y], values[min(x + 1, nx - 1), y]
                down, up = values[x, max(y - 1, 0)], values[x, min(y + 1, ny - 1)]
                # The ends stand apart so that the long loop can use vector instructions.
                for z in range(1, nz - 1):
                    around = back[z] + front[z] + down[z] + up[z] + here[z - 1] + here[z + 1]
                    out[z] = here[z] + r[z] * (around - six * here[z])
                for z in (0, nz - 1):
                    around = back[z] + front[z] + down[z] + up[z]
                    around += here[max(z - 1, 0)] + here[min(z + 1, nz - 1)]
                    out[z] = here[z] + r[z] * (around - six * here[z])
        values, new = new, values
    return values


@kernel(parallel=True)
def _sample(grid, points, sigmas, keeps, weights):
    """Fills ``weights`` (n, j) from ``grid``, but for the rows that keep (n,) what they hold.

    points (n, 3) and sigmas (n, 3) in voxels.
    """
    for i in prange(len(points)):
        if keeps[i]:
            continue
        row = weights[i]
        row[:] = 0
        x, y, z = points[i]
        dx, dy, dz = sigmas[i]
        for entry in range(len(STENCIL)):
            shift, weight = STENCIL[entry]
            _add_trilinear(grid, x + shift * dx, y, z, weight, row)
            if entry:
                _add_trilinear(grid, x, y + shift * dy, z, weight, row)
                _add_trilinear(grid, x, y, z + shift * dz, weight, row)
        row /= row.sum()


@kernel()
def _add_trilinear(grid, x, y, z, weight, row):
    """Adds ``weight`` times the interpolated grid to ``row``."""
    i, x = _split(x, grid.shape[0] - 1)
    j, y = _split(y, grid.shape[1] - 1)
    k, z = _split(z, grid.shape[2] - 1)
    for a in range(2):
        for b in range(2):
            share = weight * (x if a else 1 - x) * (y if b else 1 - y)
            near, far = np.float32(share * (1 - z)), np.float32(share * z)
            node, after = grid[i + a, j + b, k], grid[i + a, j + b, k + 1]
            for joint in range(len(row)):
                row[joint] += near * node[joint] + far * after[joint]


@kernel()
def _split(position, last):
    """Lower node and the part of the way to the next one, within the grid."""
    # Written so that a NaN becomes zero, not an index outside the grid.
    inside = min(position, last) if position > 0 else 0.0
    node = min(int(inside), last - 1)
    return node, inside - node


def _cache_path(
    vertices: Tensor, weights: Tensor, settings: tuple[int, int], folder: str | Path | None
) -> Path:
    """File named by a hash of everything the grid depends on."""
    digest = hashlib.sha256(f"{_VERSION} {settings} {vertices.shape} {weights.shape}".encode())
    digest.update(vertices.numpy().tobytes())
    digest.update(weights.numpy().tobytes())
    return Path(folder or cache_folder()) / f"skinning-{digest.hexdigest()[:32]}.npz"


def _read(path: Path, resolution: int, num_joints: int) -> np.ndarray | None:
    """The grid kept at ``path``, or None; the zip's checksum shows whether it is whole."""
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            grid = file["grid"]
        if grid.shape == (resolution,) * 3 + (num_joints,) and grid.dtype == np.float16:
            return grid
        problem = f"holds {grid.dtype} {grid.shape}"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = str(error)
    logger.warning("%s is damaged (%s); building it again", path, problem)
    return None


def _write(path: Path, grid: np.ndarray) -> None:
    """Keeps the grid."""
    with cached_file(path) as temporary:
        # numpy's own compression is three times slower, for a file a little smaller.
        archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with archive as file, file.open("grid.npy", "w") as part:
            np.lib.format.write_array(part, grid)
