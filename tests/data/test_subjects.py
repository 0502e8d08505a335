"""Frames of several subjects in one data module."""

import lightning
import pytest
import torch
from tiny_subject import EXPRESSIONS, random_frame, write_tiny_subject
from torch import nn

from persona.data.subjects import SubjectsDataModule
from persona.errors import UserError

COUNTS = {"captured": 1, "generated_0": 3, "test": 2}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return [write_tiny_subject(folder / name, COUNTS) for name in ("ann", "bob")]


def test_a_batch_mixes_subjects_and_says_whose_each_frame_is(roots):
    data = SubjectsDataModule(roots=roots, batch_size=4)
    data.prepare_data()
    frames = data.train_frames
    assert frames.names == [
        f"{name}/{frame}" for name in ("ann", "bob")
        for frame in ("captured/0", "generated_0/0", "generated_0/1", "generated_0/2")
    ]  # fmt: skip
    batch = frames[[6, 1, 4]]
    assert batch.subject.tolist() == [1, 0, 1] and batch.index.tolist() == [6, 1, 4]
    assert batch.role == ("generated", "generated", "captured")
    assert batch[1:].subject.tolist() == [0, 1]
    image = torch.from_numpy(random_frame(101).image).permute(2, 0, 1) / 255
    assert torch.equal(batch.image[0], image)  # Both subjects have equal frames.
    assert frames.poses(EXPRESSIONS).trans.shape == (8, 3)
    seen = {(int(s), n) for b in data.train_dataloader() for s, n in zip(b.subject, b.name)}  # noqa: B905
    assert seen == {(int(n.startswith("bob")), n) for n in frames.names}
    tested = [(int(b.subject[0]), b.name[0]) for b in data.test_dataloader()]
    assert tested == [(0, "ann/test/0"), (0, "ann/test/1"), (1, "bob/test/0"), (1, "bob/test/1")]


def test_photographs_of_all_subjects_have_their_share(roots):
    data = SubjectsDataModule(roots=roots, captured_ratio=0.5)
    roles = [role for batch in data.train_dataloader() for role in batch.role]
    assert roles.count("captured") == roles.count("generated") == 6


def test_subjects_of_two_sizes_share_no_batch(roots, tmp_path):
    large = write_tiny_subject(tmp_path / "large", COUNTS, dict.fromkeys(COUNTS, (40, 30)))
    batches = list(SubjectsDataModule(roots=[roots[0], large], batch_size=2).train_dataloader())
    assert {batch.image.shape[-1] for batch in batches} == {24, 30}
    assert all(len(set(batch.subject.tolist())) == 1 for batch in batches)


class Latents(lightning.LightningModule):
    """A colour that all subjects share, plus a latent shift for each subject."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.codes = nn.Parameter(torch.zeros(3)), nn.Embedding(2, 3)

    def training_step(self, batch, batch_idx):
        shown = (self.color + self.codes(batch.subject))[:, :, None, None]
        return ((shown - batch.image) * batch.mask).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_method_over_people_trains(roots, tmp_path):
    data, model = SubjectsDataModule(roots=roots, batch_size=4), Latents()
    before = model.codes.weight.detach().clone()
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    moved = (model.codes.weight - before).abs().amax(1)
    assert (moved > 0).all(), "a subject's code got no update"


def test_faults_are_named(roots):
    with pytest.raises(UserError, match=r"data.roots=\[\]"):
        SubjectsDataModule(roots=[])
    with pytest.raises(UserError, match=r"data\.learn: cy is none of data\.roots: ann, bob"):
        SubjectsDataModule(roots=roots, learn=["cy"])
    with pytest.raises(UserError, match="ann is there twice"):
        SubjectsDataModule(roots=[roots[0], roots[0]])
    with pytest.raises(UserError, match="has 2 subjects and this system makes an avatar of one"):
        _ = SubjectsDataModule(roots=roots).subject
    # A training's report reads this at its end.
    assert SubjectsDataModule(roots=roots).test_split in ("test", "captured")
    assert SubjectsDataModule(roots=roots[:1]).subject.name == "ann"
