"""Canonical points grow by the published tables, and points that no frame shows are removed."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from persona.modules.avatar.base import Avatar
from persona.modules.density.canonical_points import Doubling, TopUp
from persona.modules.losses.base import Step
from persona.systems.avatar_module import AvatarModule
from persona.systems.fit import Fit

EPOCH = 2


class Cloud(Avatar):
    """An avatar of random points with a radius."""

    per_gaussian = ("points", "own")

    def __init__(self, count, radius):
        super().__init__()
        self.points = nn.Parameter(torch.rand(count, 3))
        self.own = nn.Parameter(torch.arange(float(count))[:, None])
        self.register_buffer("radius", torch.tensor(radius))
        self.epoch_steps = EPOCH


def schedule(shared_data, name):
    path = shared_data / "parity" / name / "schedule.json"
    if not path.is_file():
        pytest.skip(f"needs the reference data at {path}")
    return json.loads(path.read_text())


def follow(density, rows):
    """Applies the rule epoch by epoch without pruning, and compares with the rows."""
    _, count, radius = rows[0]
    wanted, first = {epoch: (n, r) for epoch, n, r in rows}, (count, radius)
    density.epoch_steps = EPOCH
    for epoch in range(1, rows[-1][0] + 1):
        if density.decides(epoch * EPOCH):
            growth = density.growth(epoch, count, radius)
            count, radius = growth.count, growth.radius
        if epoch in wanted:
            assert count == wanted[epoch][0], epoch
            assert radius == pytest.approx(wanted[epoch][1], rel=1e-9), epoch
    assert (count, radius) != first


def test_pointavatar_schedule_parity(shared_data):
    rows = schedule(shared_data, "pointavatar")["rows_epoch_points_radius_without_pruning"]
    follow(Doubling(), rows)


@pytest.mark.parametrize(
    ("name", "every", "shrink_full"),
    [
        ("freq2_ddp", 2, False),
        ("freq2_single_gpu", 2, True),
        ("freq5_db_avatar_single_gpu", 5, True),
    ],
)
def test_pegasus_schedule_parity(shared_data, name, every, shrink_full):
    rows = schedule(shared_data, "pegasus")["rows_epoch_points_radius_without_pruning"][name]
    rule = Doubling(
        every=every, max_points=174_000, fill=True, least_radius=0.005,
        shrink_full=shrink_full,
    )  # fmt: skip
    follow(rule, rows)


def test_perse_schedule_parity(shared_data):
    follow(TopUp(), schedule(shared_data, "perse")["rows"])


def step_of(**parts):
    """A ``Step`` with only these attributes and an avatar."""
    step = object.__new__(Step)
    vars(step).update(parts, avatar=Cloud(1, 0.1))
    return step


def opaque(*opacities):
    """A step whose Gaussians have these opacities."""
    gaussians = SimpleNamespace(opacities=torch.tensor(opacities))
    return step_of(posed=SimpleNamespace(gaussians=lambda view: gaussians))


def test_points_that_no_frame_shows_go_and_new_ones_lie_around_the_others():
    cloud = Cloud(4, 0.1)
    density = TopUp(every=1, counts=((1, 9),), least_opacity=0.5)
    assert not density.decides(2), "the length of an epoch is still unknown"
    density.watch(opaque(0.9, 0.1, 0.1, 0.2))
    assert [step for step in range(1, 7) if density.decides(step)] == [2, 4, 6]
    density.watch(opaque(0.1, 0.1, 0.6, 0.2))
    assert density(cloud, 1) is None
    assert torch.equal(density.state_dict()["seen"], torch.tensor([True, False, True, False]))
    change = density(cloud, 2)
    assert change.keep.tolist() == [0, 2]
    fresh = change.fresh["points"]
    assert len(fresh) == 7
    nearest, parents = (fresh[:, None] - cloud.points.detach()[change.keep]).abs().amax(-1).min(1)
    assert torch.equal(change.fresh["own"][:, 0].long(), change.keep[parents])
    assert nearest.max() <= 0.05 and fresh.unique(dim=0).shape == (7, 3)
    # At the table's last epoch the radius shrinks by a tenth.
    assert float(change.settings["radius"]) == pytest.approx(0.09)
    again = TopUp(every=1, counts=((1, 9),))
    again.load_state_dict({"seen": torch.tensor([True, False, True, False])})
    again.epoch_steps = EPOCH
    assert torch.equal(again(cloud, 2).fresh["points"], fresh), "a resumed run draws the same"


@pytest.mark.parametrize("rule", [TopUp(every=2), Doubling()])
def test_the_last_steps_change_nothing_and_are_not_watched(rule):
    """Epochs have two steps; after step 9 the number of points must not change."""
    rule.epoch_steps, rule.rests_after = EPOCH, 9.5
    between = EPOCH * rule.period
    changes = [step for step in range(1, 31) if rule.decides(step)]
    assert changes == list(range(between, 10, between))
    assert [step for step in range(1, 31) if rule.watches(step)] == list(range(1, 9))
    cloud = Cloud(4, 0.1)
    assert rule(cloud, 20) is None
    rule.rests_after = 30
    assert rule(cloud, 20) is not None, "without rests_after it must change"


def test_what_was_seen_is_noted_where_a_graph_writes():
    """A replayed graph writes to the memory of its capture, so the buffer must stay there."""
    density, cloud = TopUp(every=1, counts=((9, 3),), least_opacity=0.5), Cloud(3, 0.1)
    assert density.replayable
    density.watch(opaque(0.9, 0.1, 0.9))
    place = density.seen.data_ptr()
    density.watch(opaque(0.1, 0.9, 0.1))
    density.unite(lambda here: here.clone())
    assert density.seen.all() and density.seen.data_ptr() == place
    assert density(cloud, 2) is None, "the table has no entry for the first epoch"
    assert not density.seen.any() and density.seen.data_ptr() == place
    density.watch(opaque(0.9, 0.1, 0.9))
    assert density(cloud, 4).keep.tolist() == [0, 2] and density.seen is None


def test_what_another_process_saw_stays():
    cloud, density = Cloud(3, 0.1), TopUp(every=1, counts=((1, 3),), least_opacity=0.5)
    density.unite(lambda here: here)
    density.watch(opaque(0.9, 0.1, 0.1))
    density.unite(lambda here: here | torch.tensor([False, False, True]))
    assert density(cloud, 2).keep.tolist() == [0, 2]


def test_a_checkpoint_has_what_all_processes_saw(monkeypatch):
    """The first process writes it, and all processes read it."""
    saved, others = {}, torch.tensor([0.0, 0.0, 1.0])
    monkeypatch.setattr(AvatarModule, "on_save_checkpoint", lambda self, kept: kept.update(saved))
    density, fit = TopUp(every=1, counts=((1, 3),), least_opacity=0.5), object.__new__(Fit)
    L.LightningModule.__init__(fit)
    strategy = SimpleNamespace(reduce=lambda here, reduce_op: torch.maximum(here, others))
    trainer = SimpleNamespace(world_size=2, strategy=strategy)
    fit.density, fit.trainer = density, trainer
    for seen in ([True, False, False], [True, False, True]):
        density.watch(opaque(0.9, 0.1, 0.1))
        saved = {"persona": {}}
        assert density.state_dict()["seen"].tolist() == seen
        fit.on_save_checkpoint(checkpoint := {})
        assert checkpoint["persona"]["density"]["seen"].tolist() == [True, False, True]
    trainer.world_size = 1
    density.seen = None
    density.watch(opaque(0.9, 0.1, 0.1))
    saved = {"persona": {}}
    fit.on_save_checkpoint(checkpoint := {})
    assert checkpoint["persona"]["density"]["seen"].tolist() == [True, False, False]


def test_a_doubling_has_each_point_once():
    cloud = Cloud(5, 0.2)
    density = Doubling(every=1, max_points=12)
    density.epoch_steps = EPOCH
    change = density(cloud, 2)
    assert change.keep.tolist() == list(range(5))
    assert ((change.fresh["points"] - cloud.points.detach()).abs() <= 0.1).all()
    cloud.resize(change.keep, change.fresh)
    assert density(cloud, 4) is None, "another doubling would exceed max_points"
    density.fill = True
    assert len(density(cloud, 4).fresh["points"]) == 2


def test_points_are_seen_where_they_weigh_in_the_picture():
    colors = torch.rand(3, 3, requires_grad=True)
    weights = torch.tensor([[0.4, 0.4, 0.0], [0.1, 0.1, 0.1], [0.0, 0.2, 0.5]])
    image = (weights.T @ (2 * colors / 2)).T.reshape(3, 1, 3)
    render = SimpleNamespace(images={"rgb": image})
    posed = SimpleNamespace(colors=lambda view: colors)
    step = step_of(posed=posed, renders={"points": render})
    assert Doubling().visible(step).tolist() == [True, False, True]
