"""Steps replayed from CUDA graphs train as plain ones do."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from persona.systems.experiment import load_system, train
from persona.systems.step_graph import GraphedLoss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
OPTIONS = (
    "renderer=cuda", "trainer.accelerator=gpu", "trainer.max_steps=50", "avatar.refresh_every=1",
    "trainer.log_every_n_steps=1", "report.turntable_frames=0",
)  # fmt: skip


def losses(folder):
    lines = (folder / "logs/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    return [float(v) for line in lines[1:] if (v := line.split(",")[column])]


def test_fifty_steps_equal_plain_ones(tiny, tmp_path):
    """Atomic sums differ in their last bits, which training grows: two plain runs say how far."""
    runs = {}
    for name, graph in (("graph", True), ("plain", False), ("again", False)):
        folder = tmp_path / name
        train(tiny(*OPTIONS, f"system.cuda_graph={graph}"), folder)
        runs[name] = torch.tensor(losses(folder)), load_system(folder, "cuda").avatar.state_dict()
    (graph, graph_state), (plain, plain_state), (again, again_state) = runs.values()
    assert len(graph) == 50
    found, noise = ((run / plain - 1).abs() for run in (graph, again))
    print(f"losses after 1, 5, 20, 50 steps: graph {found[[0, 4, 19, 49]]}, "
          f"plain again {noise[[0, 4, 19, 49]]}")  # fmt: skip
    assert found[:3].max() < 1e-4
    assert found.mean() < 3 * noise.mean() + 1e-5
    for name in ("rgb_logit", "mean_offset", "log_scale"):
        found, noise = (
            (state[name] - plain_state[name]).abs().mean() for state in (graph_state, again_state)
        )
        print(f"{name}: graph {found:.1e}, plain again {noise:.1e}")
        assert found < 3 * noise + 1e-6, name


def test_batches_and_growing_room(tiny, tmp_path, monkeypatch):
    """Several frames a step, and a renderer that at first has too little room."""
    from persona.modules.render import cuda_backend
    from persona.systems import avatar_system

    monkeypatch.setattr(cuda_backend, "ROOM", 0.7)
    monkeypatch.setattr(avatar_system, "CHECK_EVERY", 5)
    grown = []
    plain = cuda_backend.CudaRenderer.grow_slots

    def grow(renderer):
        grown.append(plain(renderer))
        return grown[-1]

    monkeypatch.setattr(cuda_backend.CudaRenderer, "grow_slots", grow)
    train(tiny(*OPTIONS, "data.batch_size=2", "trainer.max_steps=20"), tmp_path)
    assert True in grown and grown[-1] is False


@pytest.mark.parametrize("split", ["captured", "generated"])
def test_branches_give_what_one_stream_gives(tiny, tmp_path, split):
    """Again and again: what waits too little, or reuses memory too early, does not always show."""
    overrides = "avatar.refined_lookup=true", "perceptual=vgg", "perceptual.random_weights=true"
    config = tiny(*OPTIONS, *overrides, "trainer.max_steps=10")
    train(config, tmp_path)
    frames = instantiate(config.data).train_frames.to("cuda")
    row = next(i for i, name in enumerate(frames.names) if name.startswith(split))
    frame = frames[[row]]
    # Another one in turn: what waits too little may read what the last replay left.
    shown = frame, replace(frame, image=frame.image.flip(-1))
    systems = [load_system(tmp_path, "cuda").train() for _ in range(2)]
    plain, parallel = (GraphedLoss(s, n).graph(frame)
                       for s, n in zip(systems, (0, 12), strict=True))  # fmt: skip
    values = [plain(frame).clone() for frame in shown]
    assert all(torch.isfinite(v).all() for v in values)
    # Atomic sums differ in their last bits, which bfloat16 features grow: one stream says how far.
    found = [replays(plain, shown, 10) for _ in range(2)]
    means = [[torch.stack(g).mean(0) for g in zip(*grads, strict=True)] for grads in found[0]]
    noise = [[max(map(distance, g, [m] * len(g))) for g, m in zip(zip(*grads, strict=True), mean,
              strict=True)] for grads, mean in zip(found[1], means, strict=True)]  # fmt: skip
    alike = 0
    for _ in range(100):
        for frame, value, mean, usual in zip(shown, values, means, noise, strict=True):
            got = parallel(frame)
            torch.testing.assert_close(got, value, rtol=1e-3, atol=1e-6)
            # A feature rounded the other way shows in the loss, and moves gradients by a hundredth.
            if (got - value).abs().max() > 5e-7 * value.max():
                continue
            alike += 1
            far = map(distance, filled(parallel.grads), mean)
            for i, (a, b) in enumerate(zip(far, usual, strict=True)):
                assert a < 4 * b + 1e-5, f"gradient {i} of those that are used"
    assert alike > 150


def replays(graph, frames, count):
    """Gradients of each replay, by frame; the frames take turns."""
    found = [[] for _ in frames]
    for _ in range(count):
        for frame, grads in zip(frames, found, strict=True):
            graph(frame)
            grads.append([g.clone() for g in filled(graph.grads)])
    return found


def distance(a, b):
    """Relative, of whole tensors."""
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def filled(grads):
    return [g for g in grads if g is not None]
