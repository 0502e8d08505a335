"""The perception network, its prompt, losses, weights and annotator."""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from persona.data.palette import PART_INDEX, PART_NAMES
from persona.data.people.stream import Batch
from persona.errors import UserError
from persona.modules.detect.annotator import annotate
from persona.modules.perception.annotator import _PAIRS, PerceptionAnnotator
from persona.modules.perception.losses import Truth, laplace, perception_losses
from persona.modules.perception.network import MIRRORED_JOINTS, JointReader, PerceptionNet, Percepts
from persona.modules.perception.prompt import PROMPT_CHANNELS, detector_prompt
from persona.modules.perception.weights import SHIPPED, load_net
from persona.systems.clock import TrainingClock
from persona.systems.perception import PerceptionSystem


def test_maps_have_the_crops_size():
    with torch.no_grad():
        out = PerceptionNet()(torch.rand(2, 3, 96, 64), torch.zeros(2, PROMPT_CHANNELS, 96, 64))
    assert out.alpha.shape == (2, 1, 96, 64) and out.parts.shape == (2, 28, 96, 64)
    assert out.surface.shape == out.normal.shape == (2, 3, 96, 64)
    assert out.joints.shape == (2, 22, 4)


def test_every_parameter_learns():
    torch.manual_seed(0)
    net = PerceptionNet()
    out = net(torch.rand(1, 3, 64, 64), torch.rand(1, PROMPT_CHANNELS, 64, 64))
    torch.cat([t.flatten() for t in out]).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_prompt_peaks_at_its_points():
    points = torch.zeros(1, 133, 2)
    points[0, 9] = torch.tensor([40.0, 100.0])
    seen = torch.zeros(1, 133, dtype=torch.bool)
    seen[0, 9] = True
    prompt = detector_prompt(torch.full((1, 128, 96), 0.5), points, seen)
    assert (prompt[0, 0] == 0.5).all()
    peak = prompt[0, 2].flatten().argmax()  # The left arm's channel.
    assert abs(int(peak) // 96 - 100) <= 2 and abs(int(peak) % 96 - 40) <= 2
    assert not prompt[0, [1, 3, 4, 5, 6, 7]].any()


def truth_and_perfect(size=(32, 32)):
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(0, 28, (1, *size), generator=generator)
    normal = torch.nn.functional.normalize(torch.randn(1, 3, *size, generator=generator), dim=1)
    surface = torch.randn(1, 3, *size, generator=generator)
    joints = torch.rand(1, 22, 3, generator=generator)
    alpha = (parts > 0)[:, None].float()
    truth = Truth(alpha, parts, surface, normal, surface[:, :1], joints)
    one_hot = torch.nn.functional.one_hot(parts, 28).permute(0, 3, 1, 2).float()
    perfect = Percepts(
        80 * (alpha - 0.5), 80 * one_hot, surface, normal, surface[:, :1],
        torch.nn.functional.pad(joints, (0, 1), value=math.log(0.005)),
    )  # fmt: skip
    return truth, perfect


def test_perfect_maps_cost_nothing_and_each_error_its_own_term():
    truth, perfect = truth_and_perfect()
    assert all(abs(float(v)) < 1e-3 for v in perception_losses(perfect, truth).values())
    wrong = {
        "alpha": {"alpha": -perfect.alpha}, "parts": {"parts": -perfect.parts},
        "surface": {"surface": perfect.surface + 1}, "normal": {"normal": -perfect.normal},
        "depth": {"depth": perfect.depth + 1},
        "joints": {"joints": perfect.joints + torch.tensor([0.1, 0, 0, 0])},
        "joint_depth": {"joints": perfect.joints + torch.tensor([0, 0, 0.1, 0])},
    }  # fmt: skip
    for name, change in wrong.items():
        losses = perception_losses(perfect._replace(**change), truth)
        assert float(losses.pop(name)) > 1e-2, name
        assert all(abs(float(v)) < 1e-3 for v in losses.values()), name


def test_joints_count_by_their_weight_and_can_be_learnt_alone():
    truth, perfect = truth_and_perfect()
    wrong = perfect._replace(joints=perfect.joints + 0.1, depth=perfect.depth + 1)
    once, thrice = perception_losses(wrong, truth), perception_losses(wrong, truth, joints=3.0)
    for name, value in once.items():
        times = 3 if "joint" in name else 1
        torch.testing.assert_close(thrice[name], times * value)
    system = PerceptionSystem(pretrained=False, only_joints=True)
    learnt = {n for n, p in system.net.named_parameters() if p.requires_grad}
    assert learnt == {f"joints.{n}" for n, _ in system.net.joints.named_parameters()}
    given = system.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert len(given) == len(learnt)


def test_a_training_by_the_clock_begins_with_its_first_batch(monkeypatch):
    asked, system = [], PerceptionSystem(pretrained=False, minutes=1.0, steps=100)
    monkeypatch.setattr(TrainingClock, "end", lambda clock, trainer: asked.append(trainer))
    assert system.clock.minutes == 1 and system.clock.steps == 100 and system.clock.call_s == 0
    system.trainer = trainer = SimpleNamespace(log_every_n_steps=2, global_step=1)
    nobody = object.__new__(Batch)
    system.on_train_batch_start(nobody, 0)
    assert system.clock.call_s > 0
    system.on_train_batch_end(None, nobody, 0)
    assert asked == [trainer]
    system.on_train_end()
    system.on_save_checkpoint(kept := {})
    other = PerceptionSystem(pretrained=False, minutes=1.0)
    other.on_load_checkpoint(kept)
    assert other.clock.trained_s == system.clock.trained_s > 0
    other.on_load_checkpoint({})
    assert other.clock.trained_s == 0, "an older checkpoint has no time"


def test_the_scale_that_costs_least_is_the_mean_error():
    error = torch.tensor([0.02, -0.06, 0.1])
    scale = torch.tensor(0.06, dtype=torch.float64).log().requires_grad_()
    laplace(error.double(), scale.expand(3)).backward()
    assert abs(float(scale.grad)) < 1e-6
    # By hand: (1/3 + 1 + 5/3) / 3 + log 0.06 - log 0.005.
    assert float(laplace(error, scale.detach().float().expand(3))) == pytest.approx(
        1 + math.log(12), abs=1e-5
    )


def test_joints_are_read_where_they_look():
    """If attention is on one pixel and the correction is 0, the joint is at that pixel."""
    reader = JointReader(4, 8, inner=12, layers=1)
    torch.nn.init.zeros_(reader.out.weight)
    torch.nn.init.zeros_(reader.out.bias)
    x = torch.zeros(1, 4, 6, 8)
    x[0, 0, 4, 2] = 1
    torch.nn.init.zeros_(reader.look.weight)
    reader.look.weight.data[:, 0] = 50
    out = reader(x, torch.zeros(1, 8))
    torch.testing.assert_close(out[0, :, 0], torch.full((22,), 2.5 / 8))
    torch.testing.assert_close(out[0, :, 1], torch.full((22,), 4.5 / 6))
    assert (out[..., 2:] == 0).all()


def test_shipped_weights_are_whole_and_small():
    assert SHIPPED.stat().st_size < 20e6
    net = load_net()
    assert all(torch.isfinite(p).all() for p in net.parameters())


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_other_weights_are_refused_by_the_first_key_that_differs(tmp_path, damage):
    state = load_file(str(SHIPPED))
    key = "maps.bias"
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        key = "another.bias"
        state[key] = torch.zeros(3)
    else:
        state[key] = state[key][:-1].clone()
    save_file(state, str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=key):
        load_net(tmp_path / "w.safetensors")


def test_truncated_and_absent_weights_are_named(tmp_path):
    file = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="no such weights"):
        load_net(file)
    file.write_bytes(SHIPPED.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a safetensors file"):
        load_net(file)


def test_pairs_are_left_and_right():
    for left, right in _PAIRS:
        assert PART_NAMES[left].replace("Left", "Right") == PART_NAMES[right]
    assert len(_PAIRS) == sum(name.startswith("Left") for name in PART_NAMES)


@pytest.fixture(scope="module")
def annotator():
    return PerceptionAnnotator()


def test_reads_somebody_it_has_never_seen(annotator, shared_data):
    """A person who was not in its training data, on white, without a prompt."""
    folder = shared_data / "people/person_108/views"
    image = cv2.cvtColor(cv2.imread(str(folder / "000.png")), cv2.COLOR_BGR2RGB)
    true = cv2.imread(str(folder / "000_mask.png"), cv2.IMREAD_GRAYSCALE) > 127
    nothing = torch.zeros(133, 3)
    maps = annotate(annotator, image, np.zeros(true.shape, np.float32), nothing)
    mask = maps["alpha"] > 0.5
    assert (mask & true).sum() / (mask | true).sum() > 0.9
    row, column = np.nonzero(true)
    middle = row.min() + (row.max() - row.min()) * np.array([0.33, 0.62])
    centre = int(np.median(column))
    seen = [PART_NAMES[maps["parts"][int(r), centre]] for r in middle[:1]]
    assert seen == ["Upper_Clothing"]
    lower = maps["parts"][int(middle[1])]
    assert (lower[lower > 0] == PART_INDEX["Lower_Clothing"]).mean() > 0.5
    assert np.isfinite(maps["surface"][mask]).all() and np.isnan(maps["surface"][~mask]).all()
    x, y, depth_m, off_m = maps["joints"].T
    assert ((x > 0) & (x < 1) & (y > 0) & (y < 1)).all() and y[15] < y[0] < y[7]
    assert np.abs(depth_m).max() < 0.5 and (off_m > 0).all() and (off_m < 0.3).all()
    assert x[16] > x[17], "the left shoulder is at the right of the picture"
    # The left hand of a person who faces the camera is at the right of the picture.
    left = maps["surface"][..., 0] > 0.3
    right = maps["surface"][..., 0] < -0.3
    assert np.nonzero(left)[1].mean() > centre > np.nonzero(right)[1].mean()


def test_a_mirror_image_gives_mirrored_maps(annotator):
    image = np.random.default_rng(0).integers(0, 255, (128, 96, 3)).astype(np.uint8)
    nothing, alpha = torch.zeros(133, 3), np.zeros((128, 96), np.float32)
    there = annotate(annotator, image, alpha, nothing)
    back = annotate(annotator, np.ascontiguousarray(image[:, ::-1]), alpha, nothing)
    np.testing.assert_allclose(there["alpha"], back["alpha"][:, ::-1], atol=2e-3)
    joints = back["joints"][list(MIRRORED_JOINTS)] * [-1, 1, 1, 1] + [1, 0, 0, 0]
    np.testing.assert_allclose(there["joints"], joints, atol=2e-3)
