"""LHM trains on subject folders on a CPU, resumes, and its weights make avatars."""

import logging
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from test_lhm import SMALL
from torch.distributed.device_mesh import init_device_mesh

from persona.commands import experiment, train_lhm
from persona.data.people.portraits import VIEW, Portraits
from persona.data.preprocess.clothing import dress
from persona.data.preprocess.fit import BodyFit
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.systems import lhm_training
from persona.systems.clock import TrainingClock

ROOT = Path(__file__).parents[2]
NETWORK = [word for word in SMALL if word.startswith("model.")]


@pytest.fixture
def settings(subjects, tmp_path):
    """Composes a training on two subjects, with more overrides."""
    from hydra import compose, initialize_config_dir

    for name in ("one", "two"):
        shutil.copytree(subjects / "tiny", tmp_path / name, dirs_exist_ok=True)

    def composed(*overrides):
        roots = f"data.source.roots=[{tmp_path / 'one'},{tmp_path / 'two'}]"
        own = [
            "+exp=lhm_small", "data=lhm_subjects", roots, "data.batch_size=2", "data.views=2",
            "data.workers=0", "data.ring=4", "data.first=2", "check_people=1", "check_every=2",
            "trainer.accelerator=cpu", "trainer.precision=32",
            "trainer.enable_progress_bar=false", "trainer.max_steps=3", "renderer=cpu",
            "logger=none", "test_people=2", "system.warmup=1", "trainer.log_every_n_steps=1",
            *NETWORK,
        ]  # fmt: skip
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", [*own, *overrides])

    return composed


@pytest.fixture
def batch(settings):
    """The system that trains, and a batch of two people."""
    config = settings()
    stream = instantiate(config.data)
    system = instantiate(config.system)
    stream.aim(system.size, torch.device("cpu"))
    batches = iter(stream)
    found = next(batches)
    batches.close()
    return system, found


def opaque(made):
    """Opaque Gaussians on the body."""
    return replace(
        made, offset=torch.zeros_like(made.offset), scales=torch.full_like(made.scales, 0.03),
        opacity=torch.ones_like(made.opacity),
    )  # fmt: skip


def test_views_show_the_body_where_it_is_posed(batch):
    """An opaque avatar without offsets from the body covers most of the mask in every view."""
    system, people = batch
    assert isinstance(people, Portraits) and people.colour.shape == (2, 2, 3, *VIEW)
    with torch.no_grad():
        made = opaque(system.run(system.net, people, None))
        masks = people.mask.flatten(0, 1) > 127
        alphas = system.renders(made, people)[1]
        for mask, alpha in zip(masks, alphas, strict=True):
            overlap = (mask & (alpha[0] > 0.5)).sum() / (mask | (alpha[0] > 0.5)).sum()
            assert overlap > 0.6


def test_clothes_of_a_folder_move_no_point(settings, subjects, body, tmp_path):
    """The same person bare and dressed: points lie, and are read, at the same places."""
    config = settings()
    system, stream = instantiate(config.system), instantiate(config.data)
    stream.aim(system.size, torch.device("cpu"))
    people = stream.people(seed=0)
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(body.num_vertices, 3, generator=generator) * 0.1
    bare = replace(
        Subject(subjects / "tiny").identity(body), face_offset=torch.zeros_like(offset),
        joint_offset=torch.randn(body.num_joints, 3, generator=generator) * 0.01,
    )  # fmt: skip
    found = []
    for root, clothes in (tmp_path / "one", 0 * offset), (tmp_path / "two", offset):
        subject = Subject(root)
        info, writer = subject.info, SubjectWriter(root)
        for split in subject.splits:
            for number in subject.frame_ids(split):
                pose = subject.pose(split, number, body.num_expression)
                fit = dress(body, BodyFit(bare, pose, 0.0, 0.0), clothes)
                writer.write_pose(split, number, fit.pose)
        writer.write_identity(fit.identity)
        writer.finish(info)
        found.append(people.portraits(subject, np.random.default_rng(0)))
    one, two = found
    assert (one.trans - two.trans).norm(dim=-1).min() > 0.001, "clothes move the root's pivot"
    torch.testing.assert_close(one.sight, two.sight, atol=2e-3, rtol=0)
    with torch.no_grad():
        made = opaque(system.run(system.net, one, None))
        alphas = [system.renders(made, batch)[1] for batch in found]
    torch.testing.assert_close(*alphas, atol=2e-3, rtol=0)


def test_every_parameter_learns(batch):
    """After a step has moved the output layers from zero, every parameter has a gradient."""
    system, people = batch
    optimizer = torch.optim.AdamW(system.net.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        sum(system.terms(system.net, people, 0).values()).backward()
        optimizer.step()
    trained = [(n, p) for n, p in system.net.named_parameters() if p.requires_grad]
    idle = [name for name, p in trained if p.grad is None or not p.grad.any()]
    assert idle == []


def test_a_training_by_the_clock_is_gone_on_with(batch, monkeypatch):
    system, people = batch
    asked, trainer = [], SimpleNamespace(log_every_n_steps=2, global_step=1)
    monkeypatch.setattr(TrainingClock, "end", lambda clock, trainer: asked.append(trainer))
    system.trainer = trainer
    system.on_train_start()
    system.on_train_batch_end(None, people, 0)
    assert asked == [trainer]
    system.on_train_end()
    system.on_save_checkpoint(kept := {})
    assert kept["trained_s"] == system.clock.trained_s > 0 and system.clock.call_s == 0
    system.on_load_checkpoint({"trained_s": 100.0})
    assert system.clock.trained_s == 100


def test_the_line_of_the_log_is_what_the_benchmark_reads(batch, caplog, monkeypatch):
    """``benchmarks/lhm_training.py`` takes seconds, share of waiting and memory from it."""
    system, people = batch
    monkeypatch.setattr(TrainingClock, "end", lambda clock, trainer: None)
    system.trainer = SimpleNamespace(log_every_n_steps=1, global_step=0)
    with caplog.at_level(logging.INFO, "persona.systems.lhm_training"):
        system.on_train_start()
        system.trainer.global_step = 10
        system.on_train_batch_end(None, people, 0)
    script = runpy.run_path(str(ROOT / "benchmarks" / "lhm_training.py"))
    [(seconds, waited, gib)] = script["LINE"].findall(caplog.messages[-1])
    assert float(seconds) < 10 and (waited, gib) == ("0", "0.0")


@pytest.mark.slow
def test_trains_goes_on_and_is_put_to_use(settings, tiny, tmp_path, monkeypatch):
    config = settings("checkpoint_every=1")
    plain = lhm_training.LhmTraining.training_step

    def dies(self, batch, index):
        if self.global_step == 2:
            raise RuntimeError("power cut")
        return plain(self, batch, index)

    monkeypatch.setattr(lhm_training.LhmTraining, "training_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        experiment.run(config, tmp_path / "run")
    monkeypatch.setattr(lhm_training.LhmTraining, "training_step", plain)
    metrics = experiment.run(settings(f"resume={tmp_path / 'run'}"), tmp_path / "unused")
    assert {"test/fg_psnr_photo", "test/fg_psnr_other", "test/mask_iou_other"} <= metrics.keys()
    assert (tmp_path / "run" / train_lhm.PICTURE_FILE).is_file()
    checkpoint = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    file = tmp_path / "run" / train_lhm.WEIGHTS_FILE
    model = instantiate(tiny(*SMALL, f"model.weights={file}").model).build()
    averaged = checkpoint["state_dict"]["average.sight.weight"]
    assert torch.allclose(model.sight.weight, averaged, atol=1e-3)
    other = tiny(*SMALL, f"model.weights={file}", "model.layers=2")
    with pytest.raises(UserError, match="another version's weights"):
        instantiate(other.model).build()


def test_a_broken_subject_is_left_out_and_named(settings, tmp_path, caplog):
    config = settings()
    stream, size = instantiate(config.data), instantiate(config.system.model)
    stream.aim(size, torch.device("cpu"))
    (tmp_path / "two/captured/images/0.png").write_bytes(b"cut")
    people = iter(stream.source.dataset(stream.reader, 2, 0))
    with caplog.at_level(logging.WARNING):
        assert len([next(people) for _ in range(4)]) == 4
    assert caplog.text.count("left out (1 of 2)") == 1 and "two" in caplog.text
    shutil.rmtree(tmp_path / "one/captured")
    with pytest.raises(UserError, match="none of 2 subjects can be read"):
        [next(people) for _ in range(4)]


def test_a_second_fit_does_not_shard_again(settings, tmp_path):
    """In shards, too, the average follows the weights, which stay those of the whole network."""
    system = instantiate(settings().system)
    before = [p.detach().clone() for p in system.net.parameters()]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1)
    try:
        system._device_mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
        system.configure_model()
        shards = [*system.net.parameters()]
        system.configure_model()
        pairs = zip(shards, system.net.parameters(), strict=True)
        assert all(one is other for one, other in pairs)
        for mean in system.average.parameters():
            mean.zero_()
        system.trainer = SimpleNamespace(global_step=1)
        system.on_before_zero_grad(system.configure_optimizers()["optimizer"])
        for mean, value in zip(system.average.parameters(), before, strict=True):
            assert torch.allclose(mean, value * (1 - 2 / 11))
    finally:
        dist.destroy_process_group()
