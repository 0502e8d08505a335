"""The CUDA backends against the cpu backend: ``pytest -m gpu -s tests/modules/render``."""

import gaussian_oracle as oracle
import gaussian_scenes as scenes
import pytest
import torch

from persona.errors import UserError
from persona.modules.render.factory import make_renderer
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians


def gpu(test):
    test = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")(test)
    return pytest.mark.gpu(test)


@pytest.fixture(scope="module")
def cpu():
    return make_renderer("cpu")


@pytest.fixture(scope="module", params=["cuda", "gsplat"])
def backend(request):
    return make_renderer(request.param).cuda()


def on_gpu(gaussians, camera, channels):
    values = {n: Channel(c.values.cuda(), c.geometry) for n, c in channels.items()}
    return gaussians.to("cuda"), camera.to("cuda"), values


def cosine(a, b):
    a, b = a.double().cpu().flatten(), b.double().cpu().flatten()
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
@pytest.mark.parametrize("name", ["cuda", "gsplat"])
def test_without_cuda_it_says_so(name):
    with pytest.raises(UserError, match=f"'{name}' needs a CUDA device"):
        make_renderer(name)


@gpu
@pytest.mark.parametrize("count, opacity", [(250, None), (1500, 1.0)])
def test_equals_cpu_away_from_thresholds(cpu, backend, count, opacity):
    gaussians = scenes.cloud(count, opacity=opacity)
    view, values = scenes.camera(), scenes.channels(count)
    # Rounding decides whether a Gaussian with an opacity near 1/255 is drawn, and which Gaussian is
    # the last one of a pixel. Only pixels that are away from both thresholds are compared.
    sure = oracle.render(gaussians, view, values)[1] > 3e-4
    assert sure.float().mean() > 0.9
    scene = (
        gaussians.to(torch.float32), view.to(torch.float32),
        {n: Channel(c.values.float(), c.geometry) for n, c in values.items()},
    )  # fmt: skip
    ours, theirs = cpu(*scene), backend(*on_gpu(*scene))
    images = {"alpha": (ours.alpha, theirs.alpha)}
    images |= {n: (ours.images[n], theirs.images[n]) for n in values}
    for name, (a, b) in images.items():
        difference = (a - b.cpu()).abs()
        print(
            f"{name}: max difference {difference.max():.1e}, sure {difference[:, sure].max():.1e}"
        )
        assert a.shape == b.shape
        assert difference[:, sure].max() <= 1e-3, name
    a = scenes.gradients(cpu, *scene, sure)
    b = scenes.gradients(backend, *on_gpu(*scene), sure.cuda())
    for name in a:
        print(f"{name}: gradient cosine {cosine(a[name], b[name]):.7f}")
        assert cosine(a[name], b[name]) >= 0.999, name


@gpu
def test_equals_cpu_on_an_opaque_surface(cpu, backend):
    focal, centre = torch.full((2,), 230.0), torch.tensor([95.0, 130.0])
    scene = (
        scenes.shell(), Camera.identity(focal, centre, 256, 192),
        scenes.channels(14_000, torch.float32),
    )  # fmt: skip
    ours, theirs = cpu(*scene), backend(*on_gpu(*scene))
    difference = (ours.images["rgb"] - theirs.images["rgb"].cpu()).abs().amax(0)
    above = (difference > 1e-3).float().mean()
    print(f"rgb: max difference {difference.max():.1e}, above 1e-3 at {above:.2%} of pixels")
    assert above < 1e-3
    a, b = scenes.gradients(cpu, *scene), scenes.gradients(backend, *on_gpu(*scene))
    for name in a:
        print(f"{name}: gradient cosine {cosine(a[name], b[name]):.7f}")
        assert cosine(a[name], b[name]) >= 0.999, name


@gpu
@pytest.mark.parametrize("count", [1, 7, 33, 80])
def test_any_number_of_channels(cpu, backend, count):
    gaussians, view = scenes.cloud(dtype=torch.float32), scenes.camera(dtype=torch.float32)
    values = torch.rand(120, count, generator=torch.Generator().manual_seed(0))
    for moves in (True, False):
        channels = {"c": Channel(values, moves)}
        ours = cpu(gaussians, view, channels).images["c"]
        theirs = backend(*on_gpu(gaussians, view, channels)).images["c"].cpu()
        assert (ours - theirs).abs().median() < 1e-6 and (ours - theirs).abs().max() < 0.01


@gpu
def test_gradients_of_more_channels_than_a_pass_takes(cpu, backend):
    """60 channels take 3 passes of 26: with all, some and none of their channels moving."""
    gaussians, view = scenes.cloud(), scenes.camera()
    values = torch.randn(120, 60, generator=torch.Generator().manual_seed(0))
    channels = {"still": Channel(values[:, 40:], False), "moving": Channel(values[:, :40], True)}
    sure = oracle.render(gaussians, view, scenes.channels(120))[1] > 3e-4
    scene = gaussians.to(torch.float32), view.to(torch.float32), channels
    a = scenes.gradients(cpu, *scene, sure)
    b = scenes.gradients(backend, *on_gpu(*scene), sure.cuda())
    for name in a:
        assert cosine(a[name], b[name]) >= 0.999, name


@gpu
def test_detached_channels_reach_only_their_values(backend):
    scene = on_gpu(
        scenes.cloud(dtype=torch.float32), scenes.camera(dtype=torch.float32),
        scenes.channels(120, torch.float32),
    )  # fmt: skip
    gaussians, values = scenes.leaves(scene[0], scene[2])
    result = backend(gaussians, scene[1], values)
    (result.images["aux"].square().sum() + result.images["ids"].sum()).backward()
    assert values["aux"].values.grad.any() and values["ids"].values.grad.any()
    assert gaussians.means.grad is None or not gaussians.means.grad.any()
    backend(gaussians, scene[1], {}).alpha.sum().backward()
    assert gaussians.means.grad.any()


@gpu
def test_work_is_shared(backend, monkeypatch):
    """All channels share one projection, one sort and one compositing pass."""
    from persona.modules.render import cuda_backend

    calls = []

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(type(backend), "_project")
    count(cuda_backend, "bin_splats")
    count(cuda_backend, "composite")
    gaussians, view, values = on_gpu(
        scenes.cloud(dtype=torch.float32), scenes.camera(dtype=torch.float32),
        scenes.channels(120, torch.float32),
    )  # fmt: skip
    gaussians, values = scenes.leaves(gaussians, values)
    backend(gaussians, view, values)
    assert sorted(calls) == ["_project", "bin_splats", "composite"]


@gpu
def test_fixed_slots_draw_the_same_and_grow_when_too_few(backend):
    scene = on_gpu(
        scenes.cloud(dtype=torch.float32), scenes.camera(dtype=torch.float32),
        scenes.channels(120, torch.float32),
    )  # fmt: skip
    exact = backend(*scene)
    fixed = make_renderer(backend.name).cuda()
    camera = scene[1]
    size = (len(scene[0].means), camera.height, camera.width)
    fixed._slots[size] = 5
    with fixed.fixed_slots():
        while fixed(*scene) and fixed.grow_slots():
            pass
        result = fixed(*scene)
    assert fixed._slots[size] > 5 and not fixed.grow_slots()
    for name, image in exact.images.items():
        torch.testing.assert_close(result.images[name], image, atol=1e-5, rtol=1e-5)


@gpu
def test_nothing_to_draw(backend):
    for gaussians in (scenes.cloud(0), scenes.cloud(depth=-5.0)):
        gaussians = gaussians.to(torch.float32)
        values = {"rgb": Channel(torch.rand(len(gaussians.means), 3), True)}
        scene = on_gpu(gaussians, scenes.camera(dtype=torch.float32), values)
        gaussians, values = scenes.leaves(scene[0], scene[2])
        result = backend(gaussians, scene[1], values)
        assert result.images["rgb"].shape == (3, 38, 53)
        assert not result.images["rgb"].any() and not result.alpha.any()


@gpu
def test_tensors_elsewhere_are_refused(backend):
    with pytest.raises(UserError, match="needs cuda tensors"):
        backend(scenes.cloud(), scenes.camera(), {})


@gpu
def test_pictures_of_a_sheet_are_those_of_one_pass_each(backend):
    """Compares values and gradients, also of Gaussians that reach beyond their picture."""
    scenes_ = [scenes.cloud(300).to(torch.float32).to("cuda") for _ in range(3)]
    for index, scene in enumerate(scenes_):
        scene.means[:, 0] += 0.2 * index
    one = scenes.camera().to(torch.float32).to("cuda")
    shift = torch.tensor([[0.0, 0.0], [0.0, 6.0], [0.0, -6.0]], device="cuda")
    cameras = Camera(
        one.cam_from_world.expand(3, 4, 4), one.focal_px.expand(3, 2), one.center_px + shift,
        one.height, one.width,
    )  # fmt: skip
    weight = torch.rand(3, 4, one.height, one.width, device="cuda")
    found = []
    for many in (backend.many, lambda *given: GaussianRenderer.many(backend, *given)):
        leaves = [
            Gaussians(*(t.clone().requires_grad_() for t in vars(scene).values()))
            for scene in scenes_
        ]
        colours = [torch.full((300, 3), 0.2 * i + 0.3, device="cuda") for i in range(3)]
        colours = [c.requires_grad_() for c in colours]
        pictures = torch.cat(many(leaves, cameras, colours), 1)
        (pictures * weight).sum().backward()
        grads = [t.grad for scene in leaves for t in vars(scene).values()]
        found.append([pictures, *grads, *(c.grad for c in colours)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max())), (a - b).abs().max()
