"""A suite on the tiny subject: a new baseline, given predictions, failures, cache, report."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from persona.benchmark import cell as cell_module
from persona.benchmark import plan as plan_module
from persona.benchmark import runner, tables
from persona.benchmark.page import with_code
from persona.benchmark.pictures import curves
from persona.benchmark.plan import Cell, cell_key, make_plan, shown_name
from persona.benchmark.prepare import prepare_subjects
from persona.benchmark.run import run_benchmark
from persona.data.datamodule import SubjectDataModule
from persona.data.io import read_image, read_mask, write_png
from persona.errors import UserError
from persona.modules.body.smplx_body import PACKAGED
from persona.runtime import apart

ROOT = Path(__file__).parents[2]

# A baseline as CONTRIBUTING.md describes it: one Python file, one YAML file.
BASELINE = '''
"""A baseline: the body in one colour, learnt from the frames."""

import torch
from torch import nn

from persona.modules.avatar.base import Avatar
from persona.modules.losses.base import Loss, Step, channels_of
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.method import Method
from persona.systems.textured_mesh import TexturedBody
from persona.types import Channel, Gaussians


class Posed:
    def __init__(self, vertices, rgb):
        self.vertices, self.rgb = vertices, rgb.expand(len(vertices), 3)

    def colors(self, asset):
        return self.rgb

    def gaussians(self, asset):
        n = len(self.vertices)
        turns = torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4)
        ones = self.vertices.new_ones
        return Gaussians(self.vertices, 0.012 * ones(n, 3), turns, ones(n))


class OneColor(Avatar):
    def __init__(self, body, identity):
        super().__init__()
        self.mesh = TexturedBody(body=body, identity=identity, texture_px=1)
        self.logit = nn.Parameter(torch.zeros(3))

    def forward(self, pose, view=None):
        return Posed(self.mesh(pose).vertices, self.logit.sigmoid())


class ColorLoss(Loss):
    def __init__(self, *, weight):
        super().__init__(weight=weight)
        self.reads = channels_of("only", {"rgb"})

    def forward(self, step):
        return (step.over("only", "rgb", step.truth("only")) - step.truth("only")).abs().mean()


class OneColorBuilder:
    def __init__(self, rates):
        self.rates = rates

    def build(self, body, identity):
        return OneColor(body, identity)


class OneColorMethod(Method):
    assets = ("only",)


class CrashingMethod(OneColorMethod):
    def observe(self, frame, pose, views, turn=0):
        raise RuntimeError("a bug in\\nthe baseline")
'''
BASELINE_YAML = """
defaults:
  - base/fit@_here_
method:
  _target_: one_color.OneColorMethod
  avatar: {_target_: one_color.OneColorBuilder, rates: {logit: 0.05}}
losses:
  color: {_target_: one_color.ColorLoss, weight: 1.0}
"""
SUITE = """
name: tiny
input: a photograph
lpips_net: []
overrides: [data=subject, trainer.accelerator=cpu, renderer=cpu, pictures.num_images=1]
subjects:
  tiny: [name=tiny]
  absent: [name=absent]
sizes:
  quick:
    seeds: [0]
    pose_fit: none
    experiments: {}
    overrides: [trainer.max_steps=3]
  full:
    seeds: [0, 1]
    pose_fit: none
    experiments: {}
    overrides: [trainer.max_steps=4]
"""
PUBLISHED = """
figures:
  - {method: one_color, psnr: 12.34, ssim: 0.5, source: "arXiv:0000.00000, Table 1"}
  - {method: elsewhere, psnr: 23.45, lpips: 0.1, source: "arXiv:0000.00001", note: other data}
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the repository's conf/, with a baseline, a suite and its published figures added."""
    folder = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", folder)
    (tmp_path / "one_color.py").write_text(BASELINE)
    (folder / "system/one_color.yaml").write_text(BASELINE_YAML)
    crashing = BASELINE_YAML.replace("OneColorMethod", "CrashingMethod")
    (folder / "system/crashing.yaml").write_text(crashing)
    (folder / "suite/tiny.yaml").write_text(SUITE)
    (folder / "published/tiny.yaml").write_text(PUBLISHED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "one_color", raising=False)  # An earlier test imported it.
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """Folder of finished cells that tests share: the first test that needs a cell trains it."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture
def benchmark(conf: Path, subjects: Path, tmp_path: Path, cells: Path):
    """Runs the suite in this process; returns the number of failed cells and the report folder.

    cache: folder of the finished cells, by default the shared one.
    """

    def run(*overrides: str, name: str = "report", cache: Path = cells) -> tuple[int, Path]:
        names = [
            "suite=tiny", "logger=none", "jobs=0", f"subjects_dir={subjects}", "subjects=[tiny]",
            f"cache_dir={cache}", "frames_shown=2", *overrides,
        ]  # fmt: skip
        with initialize_config_dir(str(conf), version_base="1.3"):
            return run_benchmark(compose("benchmark", names), tmp_path / name), tmp_path / name

    return run


def truth_as_predictions(subjects: Path, folder: Path, rgba: bool = False) -> Path:
    """The true test frames as a method's renders."""
    for number in range(2):
        test = subjects / "tiny/test"
        mask = read_mask(test / f"masks/{number}.png")
        image = read_image(test / f"images/{number}.png")
        if rgba:
            alpha = mask.astype(np.uint8)[..., None] * 255
            write_png(folder / f"frame_{number:05d}.png", np.concatenate((image, alpha), -1))
        else:
            write_png(folder / f"{number}.png", np.where(mask[..., None], image, np.uint8(255)))
            write_png(folder / f"{number}_mask.png", mask)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_suite_with_a_new_baseline_predictions_and_failures(benchmark, subjects, tmp_path):
    truth_as_predictions(subjects, tmp_path / "copy/tiny")
    truth_as_predictions(subjects, tmp_path / "rgba/tiny", rgba=True)
    systems = f"one_color,textured_mesh,crashing,nonsense,predictions:{tmp_path}/copy"
    failed, report = benchmark(
        f"systems=[{systems},predictions:{tmp_path}/rgba]", cache=tmp_path / "cells"
    )

    assert failed == 2
    rows = {row["system"]: row for row in rows_of(report / "sequences.csv")}
    assert rows["crashing"]["error"] == "RuntimeError: a bug in the baseline"
    assert "conf/exp/nonsense.yaml, conf/system/nonsense.yaml" in rows["nonsense"]["error"]
    for name in ("one_color", "textured_mesh", "copy", "rgba"):
        assert rows[name]["error"] == ""
        assert 0 < float(rows[name]["mask_iou"]) <= 1
    # The truth as predictions.
    for name in ("copy", "rgba"):
        for metric in ("psnr", "alpha_psnr", "crop_psnr", "fg_psnr"):
            assert rows[name][metric] == "inf"
        for metric in ("ssim", "alpha_ssim", "crop_ssim", "fg_ssim", "mask_iou"):
            assert float(rows[name][metric]) == pytest.approx(1, abs=1e-6)
    assert float(rows["one_color"]["train_steps"]) == 3
    assert len(rows_of(report / "frames.csv")) == 4 * 2
    table = {(r["system"], r["metric"]): r for r in rows_of(report / "table.csv")}
    mean = table["one_color", "fg_psnr"]
    assert float(mean["low"]) <= float(mean["mean"]) <= float(mean["high"])
    assert float(mean["mean"]) == pytest.approx(float(rows["one_color"]["fg_psnr"]))
    assert read_image(report / "sheet_tiny.png").shape == (5 * 64, 28 + 2 * 48, 3)
    assert (report / "curves_tiny.png").is_file()
    sheet = read_image(report / "overview.png")
    assert sheet.shape == (28 + 5 * 64, 28 + 48, 3)  # Names above and beside.
    assert (sheet[28:92, 28:] == sheet[-64:, 28:]).all()  # Truth, and a copy of it.
    text = (report / "report.md").read_text()
    assert "inf [inf, inf]" in text and "of which 2 failed" in text
    assert "## Less one_color, frame by frame" in text
    assert "- test frames, pixels high and wide: tiny 2 of 64 x 48\n- seed: 0\n" in text
    assert "in all, 1 at a time\n" in text


def run_of(cells: Path, system: str) -> Path:
    """Folder of the one run of a system."""
    runs = [path.parent for path in cells.glob("*/run/config.yaml")]
    (run,) = [run for run in runs if system in (run / "config.yaml").read_text()]
    return run


def test_numbers_are_those_of_the_run_itself(benchmark, cells):
    """The benchmark scores 8-bit files, the run the same frames in memory: 1e-4 is the rounding."""
    _, report = benchmark("systems=[one_color]")
    (row,) = rows_of(report / "sequences.csv")
    metrics = run_of(cells, "OneColorMethod") / "metrics.json"
    stored = json.loads(metrics.read_text())
    for name in ("psnr", "ssim", "alpha_psnr", "crop_ssim", "fg_psnr", "mask_iou"):
        assert float(row[name]) == pytest.approx(stored[f"test/{name}"], abs=1e-4), name


def test_finished_cells_are_not_run_again(benchmark, monkeypatch, cells):
    benchmark("systems=[one_color]")

    def refuse(folder):
        raise UserError(f"{folder}: was to come from the cache")

    monkeypatch.setattr(runner, "run_cell", refuse)
    failed, report = benchmark("systems=[one_color]", name="again")
    assert failed == 0
    assert "1 came from the cache" in (report / "report.md").read_text()
    # A setting that changes the result, here the length of training, makes it another cell.
    assert (
        benchmark("systems=[one_color]", "overrides=['trainer.max_steps=5']", name="more")[0] == 1
    )
    # A cell without its result file, as after an interruption, is not finished.
    result = run_of(cells, "OneColorMethod").parent / cell_module.RESULT_FILE
    result.rename(result.with_suffix(".kept"))
    assert benchmark("systems=[one_color]", name="cut")[0] == 1
    result.with_suffix(".kept").rename(result)


def test_a_budget_of_time_is_kept_and_the_rest_done_later(benchmark, tmp_path):
    systems = "systems=[one_color,crashing]"
    empty = tmp_path / "cells"
    failed, report = benchmark(systems, "budget_s=0", name="none", cache=empty)
    assert failed == 2
    told = {row["error"] for row in rows_of(report / "sequences.csv")}
    assert told == {"not begun: budget_s is used up; run the same command again"}
    assert benchmark("systems=[one_color]", name="one")[0] == 0
    failed, report = benchmark(systems, "budget_s=0", name="cached")
    assert failed == 1  # The finished cell needs no time.
    assert [r["error"] == "" for r in rows_of(report / "sequences.csv")] == [True, False]


def test_cells_of_one_key_are_run_once(benchmark, conf, monkeypatch):
    """Two names of one configuration run at once: the second uses the first one's frames."""
    text = (conf / "system/one_color.yaml").read_text()
    (conf / "system/twin.yaml").write_text(text)
    running, runs = [], []

    def run_cell(folder):
        assert folder not in running, "two cells train in one folder"
        running.append(folder)
        time.sleep(0.5)  # So that the other cell could begin meanwhile.
        cell_module.run_cell(folder)
        running.remove(folder)
        runs.append(folder)

    monkeypatch.setattr(runner, "run_cell", run_cell)
    monkeypatch.setattr(runner, "environment", lambda slot, jobs: None)  # Threads, one process.
    failed, report = benchmark("systems=[one_color,twin]", "jobs=2", cache=conf / "cells")
    assert failed == 0 and len(runs) == 1
    one, twin = rows_of(report / "sequences.csv")
    assert one["fg_psnr"] == twin["fg_psnr"]


@pytest.mark.slow
def test_key_holds_settings_subject_code_and_fit_but_no_paths(conf, subjects, tmp_path):
    def key(*overrides: str, digest: str = "a", root: Path = subjects) -> str:
        names = ["suite=tiny", "systems=[one_color]", "subjects=[tiny]", f"subjects_dir={root}"]
        with initialize_config_dir(str(conf), version_base="1.3"):
            plan = make_plan(compose("benchmark", [*names, *overrides]))
        return cell_key(plan.cells[0], 40, digest)

    first = key()
    moved = tmp_path / "elsewhere"
    shutil.copytree(subjects, moved)
    assert key(root=moved) == first
    assert key("logger=none") == first
    others = [
        key(digest="b"), key("overrides=['optimizer.eps=1e-8']"), key("seeds=[1]"),
        key("pose_fit=image"),
    ]  # fmt: skip
    source = tmp_path / "one_color.py"
    source.write_text(source.read_text() + "\n# changed\n")
    others.append(key())
    assert len({first, *others}) == 6
    licensed, same = tmp_path / "SMPLX_MALE.npz", tmp_path / "elsewhere/SMPLX_MALE.npz"
    for file in (licensed, same):
        shutil.copyfile(PACKAGED, file)
    body = key(f"overrides=['body.path={licensed}']")
    assert body not in {first, *others} and key(f"overrides=['body.path={same}']") == body
    with licensed.open("ab") as file:
        file.write(b"more")
    assert key(f"overrides=['body.path={licensed}']") != body


@pytest.mark.parametrize("file", ["modules/kernel.cu", "modules/body.npz", "systems/new.py"])
def test_code_is_more_than_python(file, tmp_path, monkeypatch):
    """A changed kernel or body changes frames, so the digest; compiled files do not count."""
    monkeypatch.setattr(plan_module, "PACKAGE", tmp_path)

    def digest() -> str:
        plan_module._package_digest.cache_clear()
        return plan_module._package_digest()

    path = tmp_path / file
    path.parent.mkdir()
    path.write_bytes(b"\xff one")
    first = digest()
    (path.parent / "__pycache__").mkdir()
    (path.parent / "__pycache__/new.pyc").write_bytes(b"compiled")
    assert digest() == first
    path.write_bytes(b"\xff two")
    assert digest() != first
    plan_module._package_digest.cache_clear()


def test_a_subject_that_is_missing_fails_its_cells_only(benchmark):
    failed, report = benchmark("systems=[textured_mesh]", "subjects=[absent,tiny]")
    assert failed == 1
    absent, tiny = rows_of(report / "sequences.csv")
    assert "absent: no such subject folder" in absent["error"]
    assert tiny["error"] == ""


def made_up(system: str, subject: str, seed: int, psnr: list[float]) -> runner.Outcome:
    rows = [{"frame": f"test/{i}", "fg_psnr": value} for i, value in enumerate(psnr)]
    return runner.Outcome(Cell(system, subject, seed, "none"), rows)


def test_systems_are_compared_frame_by_frame():
    """A gap that is equal in all frames has no uncertainty, however much the frames differ."""
    hard_and_easy = [10.0, 30.0, 12.0, 28.0]
    outcomes = [
        *(made_up("ours", "a", seed, [x + seed for x in hard_and_easy]) for seed in (0, 2)),
        made_up("ours", "b", 0, hard_and_easy),
        *(made_up("theirs", "a", seed, [x - 1 + seed for x in hard_and_easy]) for seed in (0, 2)),
        made_up("theirs", "b", 0, [x + 3 for x in hard_and_easy]),
        made_up("half", "b", 0, [11.0, 30.0, 12.0, 28.0]),
        runner.Outcome(Cell("half", "a", 0, "none"), error="broken"),
        runner.Outcome(Cell("broken", "a", 0, "none"), error="broken"),
    ]
    found = tables.differences(outcomes, ["fg_psnr"])
    assert list(found) == [("theirs", "none"), ("half", "none")]
    gap = found["theirs", "none"]["fg_psnr"]
    assert (gap.mean, gap.low, gap.high) == pytest.approx((1, 1, 1))
    # Compared on subject b alone, as half failed on a.
    half = found["half", "none"]["fg_psnr"]
    assert half.mean == pytest.approx(0.25) and half.low == 0 and half.high > 0.25
    table = tables.difference_table(outcomes, ["fg_psnr"])
    assert table[1] == ["theirs", "none", "+1.00 [+1.00, +1.00]"]


def test_code_in_a_line_of_the_page():
    assert with_code("command: `a < b`, c") == "command: <code>a &lt; b</code>, c"


def test_a_failed_seed_is_left_out_of_both_sides():
    outcomes = [made_up("ours", "a", seed, [20.0 + seed, 22.0 + seed]) for seed in (0, 1, 2)]
    outcomes += [made_up("theirs", "a", seed, [21.0 + seed, 23.0 + seed]) for seed in (0, 1)]
    outcomes += [runner.Outcome(Cell("theirs", "a", 2, "none"), error="broken")]
    outcomes += [made_up("floor", "a", 0, [11.0, 13.0])]  # Run once, as seeds do not change it.
    found = tables.differences(outcomes, ["fg_psnr"])
    assert found["theirs", "none"]["fg_psnr"].mean == pytest.approx(1)
    assert found["floor", "none"]["fg_psnr"].mean == pytest.approx(-10)


@pytest.mark.slow
def test_seeds_are_averaged_by_frame_and_their_spread_told(benchmark):
    _, report = benchmark("systems=[one_color,textured_mesh]", "size=full")
    cells = [r for r in rows_of(report / "sequences.csv") if r["system"] == "one_color"]
    table = {(r["system"], r["metric"]): r for r in rows_of(report / "table.csv")}
    values = [float(row["psnr"]) for row in cells]
    row = table["one_color", "psnr"]
    assert (row["seeds"], row["subjects"], row["frames"]) == ("2", "1", "2")
    assert float(row["mean"]) == pytest.approx(np.mean(values))
    assert float(row["seed_std"]) == pytest.approx(np.std(values, ddof=1))
    assert "\n- seeds: 0, 1, averaged by frame; " in (report / "report.md").read_text()
    # It does not depend on the seed, so it is run once.
    floor = table["textured_mesh", "psnr"]
    assert (floor["seeds"], floor["seed_std"]) == ("1", "")


@pytest.mark.slow
def test_experiments_on_top_of_a_system(benchmark, conf):
    """``NAME+DELTA`` is another row; the report says what each name stands for."""
    text = "# @package _global_\ntrainer:\n  max_epochs: 5\n"
    (conf / "exp/abl/five_epochs.yaml").write_text(text)
    systems = "one_color,one_color+single_image,one_color+abl/five_epochs,one_color+nothing"
    failed, report = benchmark(f"systems=[{systems}]")
    assert failed == 1
    rows = {row["system"]: row for row in rows_of(report / "sequences.csv")}
    assert rows["one_color+nothing"]["error"] == (
        "conf/exp/nothing.yaml: there is none to add to one_color"
    )
    assert rows["one_color"]["fg_psnr"] != rows["one_color+single_image"]["fg_psnr"]
    text = (report / "report.md").read_text()
    assert (
        "- one_color: `+exp=baseline system=one_color`, 3 steps on all frames, "
        "50% of them on the photograph\n" in text
    )
    assert (
        "- one_color+single_image: `+exp=[baseline,single_image] system=one_color`, 3 steps on "
        "captured\n" in text
    )
    assert "`+exp=[baseline,abl/five_epochs] system=one_color`" in text


@pytest.mark.slow
def test_missing_lpips_weights_are_told(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    _, report = benchmark("systems=[textured_mesh]", "suite.lpips_net=[squeeze,alex]")
    for net, file in (("squeeze", "squeezenet1_1-b8a52dc0"), ("alex", "alexnet-owt-7be5be79")):
        told = f"LPIPS is left out of the metrics: LPIPS ({net}) needs torchvision's {file}.pth"
        assert sum(told in line for line in (report / "report.md").read_text().split("\n")) == 1
        assert "lpips" not in (report / "table.csv").read_text()
    _, report = benchmark("systems=[textured_mesh]", name="none_asked")
    assert "LPIPS is left out" not in (report / "report.md").read_text()


@pytest.mark.slow
def test_published_figures_stand_apart_with_their_source(benchmark):
    _, report = benchmark("systems=[one_color,textured_mesh]")
    text = (report / "report.md").read_text()
    lines = [line for line in text.split("\n") if "arXiv" in line]
    assert len(lines) == 2
    own, other = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert own[0] == "one_color" and own[-4:] == ["12.34", "0.5", "", "arXiv:0000.00000, Table 1"]
    assert own[3] != "" and own[3] != "12.34"
    assert other == ["elsewhere", *[""] * 4, "23.45", "", "0.1", "arXiv:0000.00001 (other data)"]
    measured = (report / "table.csv").read_text() + (report / "sequences.csv").read_text()
    assert "12.34" not in measured and "elsewhere" not in measured


class Page(HTMLParser):
    """Collects tags, and checks that each is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_no_network(benchmark, subjects, tmp_path):
    truth_as_predictions(subjects, tmp_path / "copy/tiny")
    _, report = benchmark(f"systems=[textured_mesh,predictions:{tmp_path}/copy]")
    text = (report / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert not re.findall(r"https?://", text)
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    assert sources and all(source.startswith("data:") for source in sources)
    data = json.loads(re.search(r"const galleries = (.*);\n", text)[1].replace("<\\/", "</"))
    assert data["tiny"]["frames"] == ["test/0", "test/1"]
    pictures = data["tiny"]["pictures"]
    assert list(pictures) == ["truth", "textured_mesh", "copy"]
    for uris in pictures.values():
        for uri in uris:
            image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
            assert image.size == (48, 64)


SPOILT = [
    (lambda d: shutil.rmtree(d), r"tiny: no such folder; put a subject's frames there"),
    (lambda d: (d / "1.png").unlink(), r"tiny: 1 frames for 2 test frames; render every"),
    (lambda d: write_png(d / "0.png", np.zeros((32, 24, 3), np.uint8)),
     r"0\.png: is 24 x 32 pixels, the test frame 48 x 64; render at its size"),
    (lambda d: write_png(d / "0_mask.png", np.zeros((32, 24), np.uint8)),
     r"0_mask\.png: is 24 x 32 pixels"),
    (lambda d: (d / "0_mask.png").unlink(), r"0\.png: has no alpha; give 0_mask\.png"),
    (lambda d: (d / "0.png").write_text("not a picture"), r"0\.png: not an image"),
    (lambda d: (d / "0.png").rename(d / "first.png"), r"first\.png: its name has no number"),
]  # fmt: skip
"""How a folder of predictions is spoilt, and the error's line."""


def test_bad_predictions(benchmark, subjects, tmp_path):
    """Each gives an error of one line that names the file; the good predictions are scored."""
    systems = []
    for number, (spoil, _) in enumerate(SPOILT):
        spoil(truth_as_predictions(subjects, tmp_path / f"bad{number}/tiny"))
        systems.append(f"predictions:{tmp_path}/bad{number}")
    truth_as_predictions(subjects, tmp_path / "good/tiny")
    failed, report = benchmark(f"systems=[{','.join(systems)},predictions:{tmp_path}/good]")
    assert failed == len(SPOILT)
    *bad, good = rows_of(report / "sequences.csv")
    for row, (_, message) in zip(bad, SPOILT, strict=True):
        assert re.search(message, row["error"]) and "\n" not in row["error"], message
    assert good["psnr"] == "inf"


def test_unknown_size_and_subject(benchmark):
    with pytest.raises(UserError, match="suite tiny has no size=huge: choose of quick, full"):
        benchmark("size=huge")
    with pytest.raises(UserError, match=r"no cell can run; the first is no_such.*no_such"):
        benchmark("systems=[no_such]")
    with pytest.raises(UserError, match="suite tiny has no subject bob: choose of tiny, absent"):
        benchmark("subjects=[bob]")


def test_systems_of_one_name_are_refused(benchmark, tmp_path):
    """Otherwise their numbers would be averaged like seeds of one system."""
    folders = f"predictions:{tmp_path}/a/frames,predictions:{tmp_path}/b/frames/"
    with pytest.raises(UserError, match="systems: two are called frames; leave one out or rename"):
        benchmark(f"systems=[{folders}]")


def test_suite_that_needs_a_dataset(conf, benchmark):
    text = (conf / "suite/tiny.yaml").read_text() + "path: ???\n"
    text = text.replace("[data=subject,", "[data=subject, 'data.root=${suite.path}',")
    (conf / "suite/tiny.yaml").write_text(text)
    with pytest.raises(UserError, match=r"suite tiny needs suite\.path"):
        benchmark("systems=[one_color]")


def test_cells_join_a_group_on_wandb(conf, subjects):
    names = ["suite=tiny", "systems=[one_color]", "subjects=[tiny]", f"subjects_dir={subjects}"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        (cell,) = make_plan(compose("benchmark", names)).cells
    logger = OmegaConf.to_container(cell.config, resolve=True)["logger"]
    assert logger["group"] == "tiny_quick" and logger["name"] == "one_color_tiny_0"
    assert logger["offline"] is True


@pytest.mark.parametrize(
    ("command", "message"),
    [("kill -9 $$", "the process ended by signal 9"),
     ("exit 3", "the process ended with 3 and no word")],
)  # fmt: skip
def test_process_that_was_killed_is_told(command, message, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    monkeypatch.setattr(apart.sys, "executable", str(script))
    told = apart.run_apart("module", tmp_path, tmp_path / "log.txt", apart.environment(0, 1))
    assert told == message


MARKS = """
import os, pathlib, time

class Marks:
    def __init__(self, root):
        self.root = pathlib.Path(root)

    def prepare_data(self):
        if self.root.name == "broken":
            raise ValueError("no such person")
        self.root.with_suffix(".begun").touch()
        ends = time.time() + 60
        while not all(self.root.with_name(f"{n}.begun").exists() for n in ("one", "two")):
            assert time.time() < ends, "one after the other"
            time.sleep(0.05)
        self.root.mkdir()
        (self.root / "subject.json").write_text(os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.slow
def test_absent_subjects_are_made_side_by_side(tmp_path, monkeypatch):
    (tmp_path / "marks.py").write_text(MARKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(apart, "available_cores", lambda: 6)
    configs = [
        OmegaConf.create({"data": {"_target_": "marks.Marks", "root": str(tmp_path / name)}})
        for name in ("there", "broken", "one", "two")
    ]
    (tmp_path / "there").mkdir()
    (tmp_path / "there/subject.json").touch()
    prepare_subjects(configs[:3], 1)
    assert not (tmp_path / "one").exists()
    prepare_subjects(configs, 8)
    for name in ("one", "two"):
        assert (tmp_path / name / "subject.json").read_text() == "2"
    assert not (tmp_path / "there/subject.json").read_text()


def test_curves_of_a_subject_on_which_all_failed(tmp_path):
    """Without a warning, which pytest would turn into an error."""
    failed = runner.Outcome(Cell("one", "a", 0, "none"), error="broken")
    curves(tmp_path / "curves.png", [failed], ["fg_psnr"])
    assert (tmp_path / "curves.png").is_file()


def test_times_are_medians_over_cells_that_ran_here():
    common = {"render_seconds_per_frame": 0.01, "device": "cpu"}
    facts = [{"avatar_seconds": seconds} | common for seconds in (3.0, 9.0, 4.0)]
    outcomes = [
        runner.Outcome(Cell("ours", "a", seed, "none"), [{"fg_psnr": 1.0}], facts=fact)
        for seed, fact in enumerate(facts)
    ]
    outcomes += [made_up("frames", "a", 0, [1.0])]
    assert tables.time_table(outcomes)[1:] == [["ours", "4.0", "10", "3", "cpu"]]


def test_methods_after_a_description_are_told_from_the_papers_own():
    assert shown_name("anigs+low_memory", True) == "anigs-style+low_memory"
    assert shown_name("lhm", False) == "lhm"


def test_a_broken_test_frame_fails_the_cell_before_any_training(conf, subjects, monkeypatch):
    monkeypatch.setattr(
        SubjectDataModule, "test_frames", property(lambda self: (_ for _ in ()).throw(
            UserError("test/images/0.png: broken or truncated image; make it again"))),
    )  # fmt: skip
    names = ["suite=tiny", "systems=[one_color]", "subjects=[tiny]", f"subjects_dir={subjects}"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        (cell,) = make_plan(compose("benchmark", names)).cells
    assert cell.error.startswith("test/images/0.png: broken")


def launch(conf: Path, subjects: Path, tmp_path: Path, *overrides: str):
    """Runs benchmarks/run.py in a process of its own, with ``conf`` as another config folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/run.py"), "--config-dir", str(conf),
         "suite=tiny", "logger=none", "subjects=[tiny]", f"subjects_dir={subjects}", *overrides],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_entry_point_runs_cells_in_processes(conf, subjects, tmp_path):
    """Two cells at once; a crash of one is reported, also by the exit code."""
    done = launch(conf, subjects, tmp_path, "systems=[one_color,crashing]", "jobs=2")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (report,) = (tmp_path / "outputs/benchmark/tiny").iterdir()
    rows = {row["system"]: row for row in rows_of(report / "sequences.csv")}
    assert rows["one_color"]["error"] == ""
    assert rows["crashing"]["error"].startswith("RuntimeError: a bug in the baseline (all of it:")


def test_entry_point_tells_an_unknown_suite(conf, subjects, tmp_path):
    done = launch(conf, subjects, tmp_path, "suite=nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Could not find 'suite/nowhere'" in done.stderr and "synthetic" in done.stderr
