import logging
import shutil
from dataclasses import fields, replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_subject import EXPRESSIONS, random_frame, write_tiny_subject

from persona.data.datamodule import SubjectDataModule, coarse_to_fine, spread
from persona.data.frame_loading import load_frames
from persona.data.frame_store import concatenate
from persona.data.frames import FrameDataset
from persona.data.layout import FRAME_FILES
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.types import Frame


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return write_tiny_subject(tmp_path_factory.mktemp("subjects") / "ann")


@pytest.fixture
def root(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "ann"))


def image_of(array, scale=255):
    channels = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(channels / np.float32(scale)).permute(2, 0, 1)


def test_a_frame_is_what_persona_trains_on(pristine):
    """A frame's tensors equal PERSONA's definitions, computed here from the written frame."""
    wrote = random_frame(0, captured=True)
    frame = load_frames(Subject(pristine), "captured").frame([0], offset=7)
    valid = {k: wrote.mask & getattr(wrote, f"{k}_mask") for k in ("depth", "normal", "seg")}
    wanted = {
        "image": image_of(wrote.image),
        "mask": image_of(wrote.mask.astype(np.float32), 1),
        "albedo": image_of(wrote.albedo),
        "depth": image_of(wrote.depth * valid["depth"], 1),
        "seg": image_of(wrote.seg * valid["seg"][..., None]),
        "patch": image_of(wrote.patch),
    }
    for key, value in wanted.items():
        assert torch.allclose(getattr(frame, key)[0], value.float(), atol=1e-6), key
    normal = image_of((wrote.normal + 1) / 2 * valid["normal"][..., None], 1)
    assert torch.allclose(frame.normal[0], normal, atol=5e-4)  # stored as float16
    assert frame.patch_box_px[0].tolist() == wrote.patch_box_px.tolist()
    assert frame.index.tolist() == [7] and frame.role == ("captured",)
    assert torch.equal(frame.camera.cam_from_world[0], wrote.camera.cam_from_world)
    assert frame.name == ("captured/0",)


def test_generated_frames_have_no_albedo_and_no_patch(pristine):
    frame = load_frames(Subject(pristine), "generated_0").frame([2, 0])
    assert (frame.albedo == 1).all() and not frame.patch.any()
    assert frame.patch.shape == (2, 3, 16, 16) and not frame.patch_box_px.any()
    assert frame.role == ("generated", "generated")
    assert torch.equal(frame.image[0], image_of(random_frame(102).image))


def test_rows_run_over_the_splits_and_poses_follow(pristine):
    data = SubjectDataModule(root=pristine)
    train = data.train_frames
    names = [
        "captured/0",
        *(f"generated_0/{i}" for i in range(3)),
        "generated_1/0",
        "generated_1/1",
    ]
    assert train.names == names and len(train) == 6
    assert train.roles == ["captured"] + ["generated"] * 5
    frame = train[[5, 0, 2]]
    assert frame.index.tolist() == [5, 0, 2]
    assert frame.name == ("generated_1/1", "captured/0", "generated_0/1")
    poses = train.poses(EXPRESSIONS)
    assert poses.root.shape == (6, 3)
    assert torch.equal(poses.body[5], random_frame(201).pose.body)
    assert data.test_frames[[1]].index.tolist() == [1]
    assert data.train_frames is data.train_frames
    with pytest.raises(UserError, match=f"captured: has {EXPRESSIONS} expression"):
        train.poses(52)


def test_a_store_moves_and_counts(pristine):
    store = load_frames(Subject(pristine), "test", [2, 1])
    assert store.numbers == (2, 1) and len(store) == 2 and store.size == (32, 24)
    moved = store.to("meta")
    tensors = [v for v in vars(moved).values() if isinstance(v, torch.Tensor)]
    assert all(
        t.device.type == "meta" for t in [*tensors, moved.cameras.focal_px, moved.poses.root]
    )


def test_bounding_box_of_the_person(root):
    frame = random_frame(0)
    mask = np.zeros_like(frame.mask)
    mask[5:20, 3] = mask[7, 3:13] = True
    SubjectWriter(root).write_frame("generated_0", 0, replace(frame, mask=mask))
    SubjectWriter(root).write_frame("generated_0", 1, replace(frame, mask=np.zeros_like(mask)))
    frames = load_frames(Subject(root), "generated_0", [0, 1]).frame([0, 1])
    assert frames.person_box_px == ((3, 5, 10, 15), (0, 0, 0, 0))
    assert frames.person_px == (15.0, 0.0)
    assert frames[1:].person_box_px == frames.person_box_px[1:]


def test_only_some_splits_train(pristine):
    data = SubjectDataModule(root=pristine, train_splits=["captured"])
    assert data.train_frames.names == ["captured/0"]
    assert [f.name for f in data.train_dataloader()] == [("captured/0",)]
    with pytest.raises(UserError, match="no training split test; choose of captured, generated_0"):
        SubjectDataModule(root=pristine, train_splits=["test"]).train_splits  # noqa: B018


def test_splits_of_two_sizes(tmp_path):
    root = write_tiny_subject(tmp_path / "s", sizes={"captured": (40, 30)})
    data = SubjectDataModule(root=root, batch_size=2)
    frames = list(data.train_dataloader())
    assert {(f.camera.height, *f.image.shape[2:]) for f in frames} == {(40, 40, 30), (32, 32, 24)}
    with pytest.raises(ValueError, match="different sizes"):
        data.train_frames[[0, 1]]


def test_a_split_of_mixed_sizes_is_refused(root):
    SubjectWriter(root).write_frame("generated_0", 1, random_frame(0, 30, 24))
    with pytest.raises(UserError, match=r"generated_0/images/1\.png: is not as large"):
        load_frames(Subject(root), "generated_0")


def test_a_patch_of_another_size_is_refused(root):
    frame = random_frame(0, captured=True)
    writer = SubjectWriter(root)
    writer.write_frame("captured", 1, replace(frame, patch=frame.patch[:8, :8]))
    with pytest.raises(UserError, match=r"face_patches/images/1\.png"):
        load_frames(Subject(root), "captured", [0, 1])


def test_a_captured_frame_without_a_face(root):
    frame = random_frame(0, captured=True)
    SubjectWriter(root).write_frame("captured", 1, replace(frame, patch=None, patch_box_px=None))
    frames = load_frames(Subject(root), "captured", [0, 1]).frame([0, 1])
    assert frames.patch_box_px[0, 2] > 0 and frames.patch_box_px[1, 2] == 0
    assert frames.patch[0].any() and not frames.patch[1].any()


def test_shrinking_keeps_projections_in_place(pristine):
    subject = Subject(pristine)
    full, small = (load_frames(subject, "captured", None, h).frame([0]) for h in (None, 16))
    assert small.image.shape == (1, 3, 16, 12) and small.normal.shape == (1, 3, 16, 12)
    points = torch.tensor([[[0.3, -0.2, 8.0]]])
    assert torch.allclose(small.camera.project(points) * 2, full.camera.project(points), atol=1e-4)
    assert torch.allclose(small.patch_box_px * 2, full.patch_box_px)
    mean = full.image.unflatten(2, (16, 2)).unflatten(4, (12, 2)).mean((3, 5))
    assert torch.allclose(small.image, mean, atol=0.6 / 255)
    assert not (small.seg * (1 - small.mask)).any()


def test_concatenate_undoes_slicing(pristine):
    frame = load_frames(Subject(pristine), "test").frame([0, 1, 2])
    again = concatenate([frame[:1], frame[1:]])
    assert again.name == frame.name
    for field in fields(Frame):
        value = getattr(frame, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(again, field.name), value)
    assert torch.equal(again.camera.focal_px, frame.camera.focal_px)


def test_validation_order_spreads():
    assert coarse_to_fine(8)[:4] == [0, 4, 2, 6]
    for length in (1, 2, 7, 100):
        assert sorted(coarse_to_fine(length)) == list(range(length))
    assert spread(10, 3) in ([0, 4, 9], [0, 5, 9]) and spread(2, 5) == [0, 1]


def test_loaders(pristine):
    data = SubjectDataModule(root=pristine)
    assert [f.name for f in data.test_dataloader()] == [(f"test/{i}",) for i in range(3)]
    assert {f.name for f in data.val_dataloader()} == {f.name for f in data.test_dataloader()}
    names = [f.name[0] for f in data.train_dataloader()]
    assert len(names) == len(data.train_dataloader()) == 10 and names.count("captured/0") == 5
    moved = data.transfer_batch_to_device(
        next(iter(data.test_dataloader())), torch.device("meta"), 0
    )
    assert moved.image.device.type == moved.camera.focal_px.device.type == "meta"


def test_max_frames_keeps_an_even_choice(pristine):
    data = SubjectDataModule(root=pristine, max_frames=2)
    assert data.train_frames.names == [
        "captured/0", "generated_0/0", "generated_0/2", "generated_1/0", "generated_1/1",
    ]  # fmt: skip
    with pytest.raises(UserError, match="max_frames=0"):
        SubjectDataModule(root=pristine, max_frames=0)


def test_without_a_test_split_the_photograph_is_tested(tmp_path, caplog):
    root = write_tiny_subject(tmp_path / "s", {"captured": 1, "generated_0": 2})
    data = SubjectDataModule(root=root)
    with caplog.at_level(logging.INFO):
        assert data.test_frames.names == ["captured/0"]
    assert "testing on the input photograph" in caplog.text
    with pytest.raises(UserError, match="no split test; choose of captured, generated_0"):
        SubjectDataModule(root=root, test_split="test").test_dataloader()


def test_a_broken_folder_stops_before_anything_is_decoded(root):
    path = root / "generated_1" / FRAME_FILES["normal"].format(1)
    path.unlink()
    with pytest.raises(UserError, match=str(path)):
        SubjectDataModule(root=root).prepare_data()


def test_a_source_makes_the_folder(tmp_path):
    class Source:
        def prepare(self, root: Path) -> None:
            write_tiny_subject(root)

    data = SubjectDataModule(root=tmp_path / "made", source=Source())
    data.prepare_data()
    assert len(data.train_frames) == 6
    with pytest.raises(UserError, match="no such subject folder"):
        SubjectDataModule(root=tmp_path / "none").prepare_data()


class Recorder(lightning.LightningModule):
    """Records the epoch and names of the frames that it gets."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, *batch.name))
        return self.weight * batch.image.mean()

    def validation_step(self, batch, batch_idx):
        assert batch.name[0].startswith("test/")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [1, 4, 5, 7, 10])
def test_lightning_resumes_at_the_very_batch(pristine, tmp_path, stop):
    """Two epochs of 5 steps, resumed inside an epoch, between epochs and at the end."""

    def fit(folder, checkpoint=None):
        keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, callbacks=[keep],
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
        )  # fmt: skip
        model = Recorder()
        data = SubjectDataModule(root=pristine, batch_size=2, seed=5)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return model.seen

    whole = fit(tmp_path / "whole")
    assert len(whole) == 10
    resumed = fit(tmp_path / "again", tmp_path / "whole" / f"step={stop}.ckpt")
    assert resumed == whole[stop:]


def test_a_batch_says_what_its_frames_count_for(pristine):
    """The photograph is in half of the batches, once each, and counts for all of their loss."""
    loader = SubjectDataModule(root=pristine, batch_size=3).train_dataloader()
    batches, share = list(loader), {"captured": 0.0, "generated": 0.0}
    for batch in batches:
        assert batch.role.count("captured") <= 1
        for role, part in zip(batch.role, batch.shares, strict=True):
            share[role] += part
    assert share["captured"] == pytest.approx(sum("captured" in b.role for b in batches))
    assert sum(share.values()) == pytest.approx(len(batches))
    first = batches[0]
    assert first[1:].weight == first.weight[1:]
    assert replace(first, weight=()).shares == [1 / 3] * 3


def test_a_dataset_moves(pristine):
    frames = SubjectDataModule(root=pristine).test_frames
    assert isinstance(frames.to("cpu"), FrameDataset) and frames.sizes == [(32, 24)] * 3


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"captured_ratio": 1.0}, r"captured_ratio=1\.0: must be in \[0, 1\)"),
        ({"captured_repeats": 0}, "captured_repeats=0: must be 1 or more"),
        ({"frames_on": "disk"}, "frames_on=disk is unknown: choose auto"),
    ],
)
def test_a_bad_option_is_refused_before_the_frames_are_looked_at(tmp_path, option, words):
    with pytest.raises(UserError, match=words):
        SubjectDataModule(root=tmp_path / "absent", **option)
