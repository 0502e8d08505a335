"""Pure-PyTorch twin of the Gaussian renderers, which tests each pixel with each Gaussian."""

from __future__ import annotations

import torch

from persona.types import Camera, Channel, Gaussians, Render

ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN = 0.999, 1 / 255, 1e-4


def rotations(quaternions):
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def splat(gaussians: Gaussians, camera: Camera, eps2d: float):
    """Pixel centres (n, 2), covariances (n, 2, 2), factors of the opacities (n,), depths (n,)."""
    turn, shift = camera.cam_from_world[:3, :3], camera.cam_from_world[:3, 3]
    local = gaussians.means @ turn.T + shift
    depth = local[:, 2]
    slope = local[:, :2] / depth[:, None]
    size = torch.tensor([camera.width, camera.height]).to(slope)
    low = (-0.15 * size - camera.center_px) / camera.focal_px
    high = (1.15 * size - camera.center_px) / camera.focal_px
    clamped = torch.minimum(torch.maximum(slope, low), high)
    jacobian = torch.cat([torch.eye(2).to(slope).expand(len(slope), 2, 2), -clamped[..., None]], -1)
    jacobian = jacobian * camera.focal_px[:, None] / depth[:, None, None]
    axes = turn @ rotations(gaussians.quaternions) * gaussians.scales[:, None]
    root = jacobian @ axes
    raw = root @ root.mT
    grown = raw + eps2d * torch.eye(2).to(raw)
    factor = (raw.det() / grown.det()).clamp_min(0).sqrt()
    return slope * camera.focal_px + camera.center_px, grown, factor, depth


def render(
    gaussians: Gaussians,
    camera: Camera,
    channels: dict[str, Channel],
    near: float = 0.01,
    far: float = 100.0,
    eps2d: float = 0.1,
) -> tuple[Render, torch.Tensor]:
    """The rendering, and for each pixel the smallest log ratio to a threshold that it meets."""
    depth = gaussians.means @ camera.cam_from_world[2, :3] + camera.cam_from_world[2, 3]
    order = depth.detach().float().argsort(stable=True)
    order = order[(depth[order] >= near) & (depth[order] <= far)]
    gaussians = gaussians[order]
    centre, cov, factor, _ = splat(gaussians, camera, eps2d)
    rows = torch.arange(camera.height).to(centre) + 0.5
    columns = torch.arange(camera.width).to(centre) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    offset = pixels[:, None] - centre
    power = torch.einsum("pni,nij,pnj->pn", offset, cov.inverse(), offset) / 2
    raw = gaussians.opacities * factor * torch.exp(-power)
    visible = raw >= ALPHA_MIN
    alpha = torch.where(visible, raw.clamp_max(ALPHA_MAX), 0)
    after = torch.cumprod(1 - alpha, 1)
    # The splat at which a pixel ends is itself left out.
    kept = (after > TRANSMITTANCE_MIN).cumprod(1).bool()
    alpha = torch.where(kept, alpha, 0)
    before = torch.cat([torch.ones_like(alpha[:, :1]), torch.cumprod(1 - alpha, 1)], 1)
    weight = alpha * before[:, :-1]
    shape = (camera.height, camera.width)
    images = {
        name: ((weight if c.geometry else weight.detach()) @ c.values[order]).T.unflatten(1, shape)
        for name, c in channels.items()
    }
    reached = torch.cat([torch.ones_like(kept[:, :1]), kept[:, :-1]], 1)
    near_skip = (raw / ALPHA_MIN).log().abs()
    ending = torch.where(reached & visible, (after / TRANSMITTANCE_MIN).log().abs(), torch.inf)
    margins = torch.cat([torch.where(reached, near_skip, torch.inf), ending], 1)
    margin = margins.amin(1) if len(order) else torch.full_like(before[:, 0], torch.inf)
    return Render(images, (1 - before[:, -1]).unflatten(0, shape)[None]), margin.unflatten(0, shape)
