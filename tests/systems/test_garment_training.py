"""A garment is carved where the avatar is built, trained, stored and loaded with it."""

import logging
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from persona.commands.experiment import load_system, train
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.systems import carved_garment, persona
from persona.types import BodyPose, Camera, Garment


@pytest.fixture
def garment(body):
    """A sheet before the left thigh, in place of a carved one: tiny frames show too little."""
    weights = torch.zeros(4, body.num_joints)
    weights[:, 1] = 1
    sheet = torch.tensor([[0, 1, 2], [1, 3, 2]])
    rest = torch.tensor([[0.0, -0.4, 0.3], [0.3, -0.4, 0.3], [0.0, -0.8, 0.3], [0.3, -0.8, 0.3]])
    uv = torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]])
    return Garment(rest, sheet, weights, uv, sheet)


def drawn(system, body):
    pose = BodyPose.zero(body.num_expression)
    pose.root[0], pose.trans[2] = torch.pi, 3.0
    camera = Camera.identity(torch.tensor([60.0, 60.0]), torch.tensor([24.0, 32.0]), 64, 48)
    with torch.no_grad():
        return torch.cat(system.render(matrix_pose(body, pose), camera))


def test_a_checkpoint_keeps_the_garment(tiny, garment, body, tmp_path, monkeypatch):
    monkeypatch.setattr(persona, "carve_garment", lambda *_: garment)
    train(tiny("avatar.garment=true", "trainer.max_steps=2"), tmp_path / "run")
    monkeypatch.undo()
    one, other = (load_system(tmp_path / "run").eval() for _ in range(2))
    for name, value in vars(garment).items():
        assert torch.equal(getattr(one.identity.garment, name), value)
    rows = one.avatar.template.garment
    assert int(rows.sum()) == 4 and one.avatar.rgb_logit.shape[0] == len(rows)
    assert torch.equal(drawn(one, body), drawn(other, body))
    # A training that goes on has carved something else, or nothing, before it reads the checkpoint.
    (path,) = (tmp_path / "run").rglob("last.ckpt")
    state = torch.load(path, weights_only=False)
    other.build(replace(other.identity, garment=None), state["persona"]["num_frames"])
    other.on_load_checkpoint(state)
    other.load_state_dict(state["state_dict"])
    assert torch.equal(drawn(one, body), drawn(other.eval(), body))
    rig = one.avatar.rig()
    assert len(rig.surface.faces) == len(body.faces) + 2


def test_skin_keeps_its_first_colours_beside_a_garment(tiny, garment, body):
    texture = torch.rand(64, 64, 3)
    method = instantiate(tiny("avatar.levels=1").system).method
    method.build(body.zero_identity())
    plain = method._texture(texture)
    method.build(replace(body.zero_identity(), garment=garment))
    rows = method.avatar.template.garment
    beside, subdivision = method._texture(texture), method.avatar.template.subdivision
    assert int((~rows).sum()) == len(plain)
    assert beside[~rows].sum() == pytest.approx(float(plain.sum()), rel=1e-5)
    order = [x.sort(0).values for x in (plain, beside[~rows])]
    torch.testing.assert_close(order[1], order[0], atol=1e-4, rtol=0)
    assert subdivision.num_vertices == len(beside)


def test_older_checkpoints_have_none(tiny, tmp_path):
    train(tiny("trainer.max_steps=2"), tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("last.ckpt")
    state = torch.load(path, weights_only=False)
    assert state["persona"].pop("garment") is None
    torch.save(state, path)
    system = load_system(tmp_path / "run")
    assert system.identity.garment is None and not system.avatar.template.garment.any()


def test_frames_without_parts_have_no_garment_and_that_is_said(tiny, body, caplog):
    data = instantiate(tiny().data)
    data.prepare_data()
    data.setup("fit")
    for store in data.train_frames.stores:
        store.packed.zero_()
    with caplog.at_level(logging.INFO):
        assert (
            carved_garment.carve_garment(body, data.subject.identity(body), data.train_frames)
            is None
        )
    assert "No garment" in caplog.text


def test_a_part_map_of_foreign_colours_is_named(tiny, body):
    class Foreign(FrameDataset):
        def __getitem__(self, rows):
            frame = super().__getitem__(rows)
            return replace(frame, seg=torch.full_like(frame.seg, 0.3))

    data = instantiate(tiny().data)
    data.prepare_data()
    data.setup("fit")
    frames, identity = Foreign(data.train_frames.stores), data.subject.identity(body)
    with pytest.raises(UserError, match=r"captured/0: its part map .* avatar\.garment=false"):
        carved_garment.carve_garment(body, identity, frames)
