"""The error budget: ceilings from the truth, regions, and a complete report of a tiny suite."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from persona.benchmark import budget
from persona.benchmark.budget import (
    budget_table,
    ceiling_cells,
    plain,
    run_budget,
    same_test,
    subject_table,
    variant_cell,
)
from persona.benchmark.ceilings import CEILINGS, ceilings_of, render_ceilings
from persona.benchmark.plan import Cell
from persona.benchmark.predictions import read_prediction, score_predictions
from persona.benchmark.regions import REGIONS, region_masks, region_scores
from persona.benchmark.runner import Outcome
from persona.data.frame_loading import load_frames
from persona.data.frames import FrameDataset
from persona.data.io import write_png
from persona.data.palette import PART_INDEX, classes_from_colours
from persona.data.subject import Subject
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import ClipScene
from persona.errors import UserError
from persona.modules.metrics.protocol import on_white, protocol_metrics

CONF = str(Path(__file__).parents[2] / "conf")
TINY = SyntheticConfig(
    height=64, width=48, num_generated=4, num_test=2, texture_size=128, patch_size=32
)
"""Settings of the fixture ``subjects``."""


@pytest.fixture(scope="module")
def frames(subjects) -> FrameDataset:
    return FrameDataset([load_frames(Subject(subjects / "tiny"), "test")])


@pytest.fixture(scope="module")
def scores(body, frames, tmp_path_factory) -> dict[str, float]:
    """Mean foreground PSNR of each ceiling."""
    folder = tmp_path_factory.mktemp("ceilings")
    render_ceilings(ClipScene(Person(body, TINY.seed), TINY), folder)
    metrics = protocol_metrics(None)
    found = {name: score_predictions(folder / name, frames, metrics) for name in ceilings_of(TINY)}
    return {n: float(np.mean([row["fg_psnr"] for row in rows])) for n, rows in found.items()}


@pytest.mark.slow
def test_the_truth_scores_as_itself_and_each_thing_less_costs_something(scores):
    assert scores["all true"] == np.inf
    for name in scores.keys() - {"all true"}:
        assert 10 < scores[name] < 50, name
    assert scores["light by nine harmonics"] > scores["light baked into colours"]
    both = scores["only skins, light baked"]
    assert both < min(scores["cloth that only skins"], scores["light baked into colours"])


@pytest.mark.slow
def test_only_cloth_that_swings_has_a_ceiling_without_swing(body, tmp_path):
    swinging = replace(TINY, swing=1.0, num_test=8)
    name = "cloth without its swing"
    assert set(ceilings_of(swinging)) - set(ceilings_of(TINY)) == {name}
    render_ceilings(ClipScene(Person(body, TINY.seed), swinging), tmp_path)
    true, still = (read_prediction(tmp_path / n / "7.png", 64, 48)[0] for n in ("all true", name))
    apart = (true - still).abs().amax(0) > 0.05
    # Hem and hair are elsewhere; most of the person is not.
    assert 5 < apart.sum() < 0.3 * (still.amin(0) < 0.95).sum()


def test_ceilings_that_were_rendered_before_there_was_another_are_not_taken(monkeypatch):
    name, rendered = "cloth without its swing", []
    monkeypatch.setattr(budget, "prepare_ceilings", lambda jobs, _: rendered.extend(jobs))
    target = "persona.data.synthetic.subject.SyntheticSubject"
    data = {"source": {"_target_": target, "config": {"swing": 1.0}}}
    configs = {"a": OmegaConf.create({"data": data})}
    with monkeypatch.context() as before:
        before.delitem(CEILINGS, name)
        cells = ceiling_cells(composed(), configs, {"a": "0"})
    assert name not in [cell.system for cell in cells]
    cells = ceiling_cells(composed(), configs, {"a": "0"})
    assert name in [cell.system for cell in cells]
    assert len(set(rendered)) == 2
    assert {cell.predictions for cell in cells} == {rendered[1] / cell.system for cell in cells}


def test_a_video_without_ffmpeg_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(budget, "budget_plan", lambda _: pytest.fail("work began"))
    with pytest.raises(UserError, match="video_fps=null"):
        run_budget(composed("video_fps=15"), tmp_path)


def test_regions_are_parts_of_the_person(frames):
    frame = frames[[0]]
    masks = region_masks(frame)
    assert set(masks) == set(REGIONS)
    person = frame.mask[0, 0].numpy() > 0.5
    seg = (frame.seg[0].permute(1, 2, 0) * 255).round().byte().numpy()
    seg[~person] = (50, 50, 50)
    classes = classes_from_colours(seg)
    assert (classes[masks["face"]] == PART_INDEX["Face_Neck"]).all()
    assert masks["print"][person].sum() > 0 and not (masks["print"] & masks["hem"]).any()
    # About half of the outline's band is inside the person, and the hem lies low in the clothes.
    inside = masks["silhouette"][person].sum() / masks["silhouette"].sum()
    assert 0.3 < inside < 0.7
    cloth = np.nonzero((classes == PART_INDEX["Upper_Clothing"]).any(1))[0]
    assert np.nonzero(masks["hem"].any(1))[0].min() > cloth.mean() - 3


def test_an_error_counts_in_its_region_alone(frames):
    frame = frames[[0]]
    truth = on_white(frame.image[0], frame.mask[0])
    masks = {name: np.zeros(truth.shape[1:], bool) for name in REGIONS}
    masks["hem"][:10], masks["face"][20:30] = True, True
    wrong = truth.clone()
    wrong[:, :10] = (truth[:, :10] - 0.2).clamp(0, 1)
    found = region_scores(wrong, frame, masks)
    assert found["face"] == np.inf and np.isnan(found["hands"])
    assert found["hem"] == pytest.approx(-20 * np.log10(0.2), abs=0.05)


def composed(*overrides: str):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("error_budget", ["jobs=0", "suite.lpips_net=[]", *overrides])


@pytest.mark.parametrize("variants", sorted(p.stem for p in Path(CONF, "variant").iterdir()))
@pytest.mark.parametrize("size", ["quick", pytest.param("full", marks=pytest.mark.slow)])
def test_every_variant_composes_into_a_folder_of_its_own_frames(variants, size):
    suite, subject = ("skirts", "slim") if variants == "cloth" else ("synthetic", "tunic")
    config = composed(f"variant={variants}", f"size={size}", f"suite={suite}")
    with initialize_config_dir(CONF, version_base="1.3"):
        cells = [variant_cell(config, n, s, subject, 0) for n, s in config.variant.items()]
    assert [cell.error for cell in cells] == [""] * len(cells)
    roots = {(cell.config.data.root, str(cell.config.data.source.config)) for cell in cells}
    assert len({root for root, _ in roots}) == len(roots), "different frames share a folder"
    assert all(plain(cell.subject) == subject for cell in cells)


def outcome(row: str, subject: str, *values: float) -> Outcome:
    rows = [{"frame": str(i), "fg_psnr": v, "hands": v} for i, v in enumerate(values)]
    return Outcome(Cell(row, subject, 0, "none"), rows)


def test_cells_that_are_missing_cost_no_table():
    found = [
        outcome("as it is", "a", 10),
        outcome("as it is", "b", 30),
        outcome("better", "a (better)", 12),
        outcome("alone", "c", 5),
    ]
    assert subject_table(found, "fg_psnr") == [
        ["", "a", "b", "c"],
        ["as it is", "10.00", "30.00", "nan"],
        ["better", "12.00", "nan", "nan"],
        ["alone", "nan", "nan", "5.00"],
    ]
    # The gain is over the one subject that both have, not over the mean of two.
    rows = budget_table(found, ["fg_psnr"])[1:]
    assert [row[1] for row in rows] == ["20.00", "12.00 (+2.00)", "5.00"]


def test_numbers_are_compared_with_the_first_variant():
    table = budget_table(
        [
            outcome("as it is", "a", 10, 20),
            outcome("as it is", "b", 30, float("nan")),
            outcome("better", "a (better)", 18, 18),
            outcome("better", "b (better)", 32, 32),
        ],
        ["hands"],
    )
    # Subjects count equally, however many frames have a value: (15 + 30) / 2 and (18 + 32) / 2.
    assert table == [["", "hands PSNR"], ["as it is", "22.50"], ["better", "25.00 (+2.50)"]]


def test_other_test_frames_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 32, 3), np.uint8)
    rounded, moved = image.copy(), np.roll(image, 1, 0)
    rounded[3] += rounded[3] < 250
    for name, frame in {"a": image, "b": rounded, "c": moved, "d": image[:10]}.items():
        write_frame(tmp_path / name, "images/0", frame)
        write_frame(tmp_path / name, "masks/0", image)
    same_test(tmp_path / "a", tmp_path / "b")
    write_frame(tmp_path / "b", "images/1", image)
    write_frame(tmp_path / "e", "images/0", image)
    write_frame(tmp_path / "e", "masks/0", moved)
    for other in "bcde":
        with pytest.raises(UserError, match="test frames"):
            same_test(tmp_path / other, tmp_path / "a")


def write_frame(root, name, image):
    path = root / "test" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, image)


@pytest.mark.slow
def test_a_whole_report(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    few = {"height": 96, "width": 72, "num_generated": 2, "num_test": 2}
    few |= {"texture_size": 128, "patch_size": 32}
    small = [f"data.source.config.{key}={value}" for key, value in few.items()]
    config = composed("subjects=[tunic]", f"subjects_dir={tmp_path}/s", f"cache_dir={tmp_path}/c/d")
    config.overrides = ["trainer.accelerator=cpu", *small]
    config.video_fps = 15
    config.variant = {
        "as it is": {"system": "textured_mesh"},
        "clean": {"system": "textured_mesh", "source": {"blur": 0.0}},
    }
    with initialize_config_dir(CONF, version_base="1.3"):
        assert run_budget(config, tmp_path / "report") == 0
    text = (tmp_path / "report/budget.md").read_text()
    assert "| clean |" in text and "| all true | inf" in text
    with (tmp_path / "report/budget.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["subject"] for row in rows} == {"tunic"} and len(rows) == 2 + len(ceilings_of(TINY))
    assert (tmp_path / "report/budget_tunic.png").is_file()
    # The truth and what was trained, beside each other: frames as wide as three pictures.
    shown = ffmpeg.read_frames(str(tmp_path / "report/budget_tunic.mp4"))
    assert next(shown)["size"][0] >= 3 * 72
    again = read_prediction(next((tmp_path / "c/ceilings").glob("*/all true/0.png")), 96, 72)
    assert torch.isfinite(again[0]).all()


@pytest.mark.slow
def test_a_report_of_simulated_clothes(tmp_path):
    """The untrained body is scored in skinned and in simulated clothes of one dress."""
    few = {"height": 96, "width": 72, "num_generated": 2, "num_test": 3, "texture_size": 128}
    small = [f"data.source.config.{key}={value}" for key, value in few.items()]
    folders = [f"subjects_dir={tmp_path}/s", f"cache_dir={tmp_path}/c/d"]
    config = composed("suite=skirts", "subjects=[dress]", *folders)
    config.overrides = ["trainer.accelerator=cpu", *small]
    config.variant = {
        "skin": {"system": "textured_mesh"},
        "simulated": {"system": "textured_mesh", "source": {"simulated": True}},
    }
    with initialize_config_dir(CONF, version_base="1.3"):
        assert run_budget(config, tmp_path / "report") == 0
    roots = [Subject(root) for root in sorted((tmp_path / "s").glob("skirts*"))]
    assert len(roots) == 2
    told = [root.surface_offset("generated_1", 1) is not None for root in roots]
    assert told == [False, True], "only the simulated clip stores its clothes' offsets"
    for root in roots:
        root.validate()
        assert "photographed" in root.info.provenance
    with (tmp_path / "report/budget.csv").open() as file:
        systems = {row["system"] for row in csv.DictReader(file)}
    assert systems >= {"untrained, clothes skin", "untrained, clothes simulated"}
