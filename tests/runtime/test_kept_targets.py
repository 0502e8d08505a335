"""Keeping the features of captured frames does not change the loss, with CUDA graphs or without."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate

from persona.commands.experiment import train
from persona.modules.avatar.pose_table import PoseTable
from persona.runtime.step_graph import GraphedLoss

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
PERCEPTUAL = ("perceptual=squeeze", "perceptual.random_weights=true")


def make_system(settings, device):
    system, data = instantiate(settings.system), instantiate(settings.data)
    frames = data.train_frames
    poses = frames.poses(system.body.num_expression)
    system.build(data.subject.identity(system.body), len(poses.trans))
    system.method.initialise(data.subject)
    system.table.load_state_dict(PoseTable.from_poses(system.body, poses).state_dict())
    system.focus_px = (48, 32)
    return system.to(device), frames.to(device)


@pytest.mark.parametrize(
    "device, net",
    [
        ("cpu", "squeeze"),
        pytest.param("cuda", "squeeze", marks=CUDA),
        pytest.param("cuda", "vgg", marks=CUDA),
    ],
)
def test_each_captured_frame_is_served_its_own_features(tiny, device, net):
    renderer = "cuda" if device == "cuda" else "cpu"
    options = f"perceptual={net}", PERCEPTUAL[1], f"renderer={renderer}", "avatar.refresh_every=1"
    system, frames = make_system(tiny(*options), device)
    rows = [frames.roles.index(role) for role in ("captured", "generated")]
    first, generated = (frames[[row]] for row in rows)
    # Another photo of the same person, in which the person stands elsewhere.
    second = replace(
        first, image=first.image.flip(3), albedo=first.albedo.flip(1), patch=first.patch.flip(2),
        mask=first.mask.roll(5, 2), name=("captured/1",),
    )  # fmt: skip
    order = (first, second, generated, first, second, generated)
    expected = [system.batch_loss(frame) for frame in order]
    system.losses.keep_targets(2)
    loss = GraphedLoss(system) if device == "cuda" else system.batch_loss
    for frame, (total, (terms,)) in zip(order, expected, strict=True):
        kept_total, (kept_terms,) = loss(frame)
        # Features are bfloat16 on CUDA, and another batch size rounds differently.
        tolerance = {"rtol": 1e-2 if device == "cuda" else 1e-4, "atol": 1e-5}
        torch.testing.assert_close(kept_total, total, **tolerance)
        for name, value in terms.items():
            torch.testing.assert_close(kept_terms[name], value, **tolerance, msg=name)
    # For both photos, one entry for the image with the albedo and one for the patch.
    assert len(system.losses.kept) == 4
    assert abs(expected[0][0] - expected[1][0]) > 0.02 * expected[0][0]
    if device == "cuda":
        assert len(loss.graphs) == 3


def test_graphs_are_for_one_captured_frame_where_features_are_kept(tiny):
    system, frames = make_system(tiny(), "cpu")
    kinds = []
    for frames_kept in (0, 1):
        system.losses.keep_targets(frames_kept)
        for name in ("captured/0", "captured/1"):
            frame = frames[[frames.roles.index("captured")]]
            kinds.append(system.frame_kind(replace(frame, name=(name,))))
    assert kinds[0] == kinds[1] and kinds[2] != kinds[3]
    generated = frames[[frames.roles.index("generated")]]
    other = replace(generated, name=("generated_0/99",))
    assert system.frame_kind(generated) == system.frame_kind(other)


def test_graphs_of_an_interrupted_fit_are_dropped_where_the_avatar_moves(tiny):
    """They would go on reading the memory that the parameters had before they were moved."""
    config = tiny()
    system, data = instantiate(config.system), instantiate(config.data)
    system.trainer = trainer = SimpleNamespace(datamodule=data)
    system.graphed = "left over"
    system.setup("fit")
    assert system.graphed is None and trainer.datamodule is data


def test_training_looks_at_the_photo_once(tiny, tmp_path, monkeypatch):
    from persona.modules.losses import base

    kept, plain = [], base.distances

    def watch(step, features):
        kept.append(features)
        return plain(step, features)

    monkeypatch.setattr(base, "distances", watch)
    train(tiny(*PERCEPTUAL, "pictures.turntable_frames=0"), tmp_path)
    features = kept[0]
    assert features and all(values is features for values in kept)
    assert {key[1] for key in features} == {"captured/0"}
