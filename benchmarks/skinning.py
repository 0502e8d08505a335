"""Cost of the skinning field, and how near its weights are to the mesh's.

Usage: ``python benchmarks/skinning.py [--resolution 128] [--levels 0] [--device cpu]``. Reports,
for the packaged body in its canonical pose, with Gaussians at the (subdivided) vertices:

- seconds to diffuse the grid (in an empty cache) and to read it back;
- milliseconds to sample it, and with gradient forward and backward;
- how far skinning with the field moves posed points from skinning with the mesh weights;
- how much the gradient of the posed means changes when it also flows through the weights.

Posed quantities are over body Gaussians (no hands, no head) and 8 random poses of 0.3 rad.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from persona.modules.body.regions import body_regions
from persona.modules.body.skinning import blend_skin
from persona.modules.body.skinning_field import SkinningField
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision

SIGMA_M, POSES, POSE_RAD = 0.004, 8, 0.3


def median_ms(function: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    """Median wall time, after three calls to warm up."""
    times = []
    for i in range(repeats + 3):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def posed_gradient(
    field: SkinningField, means: Tensor, scales: Tensor, bones: Tensor, through_weights: bool
) -> Tensor:
    """Gradient of randomly weighted posed points with respect to the means."""
    means = means.clone().requires_grad_()
    weights = field(means, scales, differentiable=through_weights)
    posed = blend_skin(means, weights, bones)
    push = torch.randn(posed.shape, generator=torch.Generator().manual_seed(1)).to(posed)
    (posed * push).sum().backward()
    return means.grad


def main() -> None:
    """Runs the measurements and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--levels", type=int, default=0, help="subdivisions of the body")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    say = Console().print

    body = SmplxBody()
    vertices, _, canonical = body.canonical(body.zero_identity())
    with tempfile.TemporaryDirectory() as cache:
        for what in ("diffuse", "read"):
            start = time.perf_counter()
            field = SkinningField.build(vertices, body.weights, args.resolution, cache_dir=cache)
            say(f"{what}: {time.perf_counter() - start:.1f} s")

    mesh = Subdivision(body.faces, args.levels)
    regions = body_regions(body).subdivide(mesh)
    keep = ~(regions.hand | regions.face)
    means = mesh.features(vertices).to(args.device)
    scales = torch.full_like(means[:, 0], SIGMA_M)
    field = field.to(args.device)
    say(f"sample {len(means)}: {median_ms(lambda: field(means, scales), args.device):.1f} ms")

    generator = torch.Generator().manual_seed(0)
    rotations = POSE_RAD * torch.randn(POSES, 55, 3, generator=generator)
    rest_joints = body.shape(body.zero_identity())[1]
    bones = body.joint_transforms(rest_joints, rotations) @ torch.linalg.inv(canonical)
    bones = bones.to(args.device)
    with torch.no_grad():
        exact = blend_skin(means, mesh.features(body.weights).to(args.device), bones)
        error = (blend_skin(means, field(means, scales), bones) - exact).norm(dim=-1)[:, keep]
    error = 1e3 * error.flatten().cpu()
    high = error.kthvalue(round(0.99 * len(error))).values
    say(f"posed distance to mesh skinning: mean {error.mean():.2f} mm, 99 % {high:.2f} mm")

    def gradient(through_weights: bool) -> Tensor:
        return posed_gradient(field, means, scales, bones, through_weights)

    full, cut = gradient(True)[keep], gradient(False)[keep]
    change = ((full - cut).norm(dim=1) / cut.norm(dim=1)).median()
    whole = (full - cut).norm() / cut.norm()
    cosine = torch.cosine_similarity(full.flatten(), cut.flatten(), 0)
    say(f"gradient through weights: median {change:.3f}, whole {whole:.3f}, cosine {cosine:.3f}")
    for through in (False, True):
        cost = median_ms(lambda t=through: gradient(t), args.device, repeats=5)
        say(f"posed gradient, {'through' if through else 'not through'} weights: {cost:.1f} ms")


if __name__ == "__main__":
    main()
