"""What limits a system's score: one thing at a time is made perfect, by subject and region."""

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from persona.benchmark import tables
from persona.benchmark.ceilings import ceilings_digest, ceilings_for, prepare_ceilings
from persona.benchmark.pictures import contact_sheet, picture_rows, side_by_side
from persona.benchmark.plan import Cell, Plan, chosen_size, folder_digest, make_cell, one_line
from persona.benchmark.predictions import prediction_files, read_prediction
from persona.benchmark.prepare import prepare_subjects
from persona.benchmark.regions import REGIONS, region_masks, region_scores
from persona.benchmark.report import commit, machine
from persona.benchmark.runner import Outcome, run_cells
from persona.commands.experiment import missing_lpips, quiet_libraries
from persona.commands.video_file import write_video
from persona.data.datamodule import SubjectDataModule
from persona.data.ffmpeg import ffmpeg_package
from persona.data.io import read_image, write_csv, write_png, write_text
from persona.data.layout import TEST
from persona.errors import UserError
from persona.modules.device import pick_device

log = logging.getLogger(__name__)
SYSTEM = "persona"
"""System of variants that name none."""
COMPARED = "images", "masks", "segs"
"""Maps of the test frames that variants must not change."""
ROUNDING, SAME_PIXELS = 2, 1e-3
"""Levels, of 255, by which the same pixel may differ, and the share that may differ by more: those
at the edge of a triangle."""


def run_budget(config: DictConfig, folder: Path) -> int:
    """Trains and scores every variant, writes the report into ``folder``; returns how many failed.

    Raises:
        UserError: the suite has no such size or subject, a variant's test frames differ, or a video
            is asked for without ffmpeg.
    """
    quiet_libraries()
    if config.video_fps:
        ffmpeg_package("make none by video_fps=null")
    for line in missing_lpips(config.metric):
        log.warning(line)
    plan = budget_plan(config)
    outcomes = run_cells(
        plan,
        instantiate(config.metric).to(pick_device("auto")),
        cache=Path(config.cache_dir).resolve(),
        updates=config.updates,
        jobs=config.jobs,
        budget_s=config.budget_s,
    )
    outcomes = [with_regions(outcome, plan) for outcome in outcomes]
    print(write_budget(config, plan, outcomes, folder))
    print(f"report: {folder / 'budget.md'}")
    return sum(bool(outcome.error) for outcome in outcomes)


def budget_plan(config: DictConfig) -> Plan:
    """The cells of all variants and ceilings; in tables a variant's name replaces the system's.

    Raises:
        UserError: a variant's subject cannot be made, or has other test frames.
    """
    suite, size = config.suite, chosen_size(config)
    names = list(suite.subjects if config.subjects is None else config.subjects)
    seeds = size.seeds if config.seeds is None else config.seeds
    cells = [
        variant_cell(config, variant.replace("_", " "), settings, subject, seed)
        for variant, settings in config.variant.items()
        for subject in names
        for seed in seeds
    ]
    if failed := [cell for cell in cells if cell.error]:
        raise UserError(f"variant {failed[0].name}: {failed[0].error}")
    configs = {cell.subject: cell.config for cell in cells if cell.config is not None}
    prepare_subjects({c.data.root: c for c in configs.values()}.values(), config.jobs)
    subjects: dict[str, SubjectDataModule] = {}
    for key, made in configs.items():
        subjects[key] = instantiate(made.data)
        subjects[key].prepare_data()
        same_test(subjects[key].root, subjects[plain(key)].root)
    digests = {key: folder_digest(data.root) for key, data in subjects.items()}
    if config.ceilings:
        cells += ceiling_cells(config, {name: configs[name] for name in names}, digests)
    return Plan(subjects, digests, cells)


def variant_cell(
    config: DictConfig, variant: str, settings: DictConfig, subject: str, seed: int
) -> Cell:
    """One cell; its subject is ``SUBJECT (VARIANT)`` where its frames are the variant's own."""
    changed, source = config.copy(), settings.get("source") or {}
    given = [f"data.source.config.{key}={value}" for key, value in source.items()]
    changed.overrides = [*config.overrides, *settings.get("overrides", ()), *given]
    cell = replace(
        make_cell(changed, settings.get("system", SYSTEM), subject, seed), system=variant
    )
    if cell.config is None or not source:
        return cell
    with open_dict(cell.config):
        slug = "_".join(f"{key}{value}" for key, value in sorted(source.items()))
        cell.config.data.root = f"{cell.config.data.root}_{slug}"
    return replace(cell, subject=f"{subject} ({variant})")


def plain(subject: str) -> str:
    """The suite's name of a subject."""
    return subject.partition(" (")[0]


def same_test(root: Path, first: Path) -> None:
    """Refuses a subject that is tested on other frames than the first variant's.

    Frames that were made by another number of threads may differ by a level in a few pixels.

    Raises:
        UserError: it is.
    """
    if root == first:
        return
    found, wanted = (
        {f"{kind}/{path.name}": path for kind in COMPARED for path in (folder / kind).glob("*.png")}
        for folder in (root / TEST, first / TEST)
    )
    if found.keys() != wanted.keys() or any(
        _pixels_apart(path, wanted[name]) > SAME_PIXELS for name, path in found.items()
    ):
        raise UserError(
            f"{root}: its test frames are not those of {first}; a variant must not change them"
        )


def _pixels_apart(path: Path, other: Path) -> float:
    """Share of values that differ by more than rounding; 1 for other sizes."""
    a, b = (read_image(p).astype(np.int16) for p in (path, other))
    return float((np.abs(a - b) > ROUNDING).mean()) if a.shape == b.shape else 1.0


def ceiling_cells(
    config: DictConfig, configs: Mapping[str, DictConfig], digests: Mapping[str, str]
) -> list[Cell]:
    """A cell of finished frames for each ceiling of each subject; renders what is not there."""
    parent = Path(config.cache_dir).resolve().parent / "ceilings"
    folders = {
        name: parent / f"{name}_{digests[name]}_{ceilings_digest(made.data)}"
        for name, made in configs.items()
    }
    prepare_ceilings({folders[name]: made.data for name, made in configs.items()}, config.jobs)
    return [
        Cell(name, subject, 0, "none", predictions=folder / name, trained=False)
        for subject, folder in folders.items()
        for name in ceilings_for(configs[subject].data)
    ]


def with_regions(outcome: Outcome, plan: Plan) -> Outcome:
    """Adds the PSNR of every region to the rows of an outcome."""
    if outcome.error or outcome.folder is None:
        return outcome
    try:
        frames = plan.subjects[outcome.cell.subject].test_frames
        files = prediction_files(outcome.folder, len(frames))
        rows = []
        for number, (row, path) in enumerate(zip(outcome.rows, files, strict=True)):
            frame = frames[[number]].to("cpu")
            image, _ = read_prediction(path, *frame.image.shape[-2:])
            rows.append({**row, **region_scores(image, frame, region_masks(frame))})
        return replace(outcome, rows=rows)
    except Exception as error:
        return Outcome(outcome.cell, error=one_line(error))


# The report ----------------------------------------------------------------------------------


def write_budget(config: DictConfig, plan: Plan, outcomes: Sequence[Outcome], folder: Path) -> str:
    """Writes budget.md, budget.csv and a sheet per subject; returns the markdown."""
    good = [o for o in outcomes if not o.error]
    shown = [n for n in ("fg_psnr", *_lpips(good), "mask_iou") if good and n in good[0].rows[0]]
    shown += [f"{name}" for name in REGIONS]
    command = shlex.join(["python", "benchmarks/budget.py", *sys.argv[1:]])
    seconds = sum(float(o.facts.get("seconds", 0)) for o in good)
    lines = [
        f"# Error budget: suite {config.suite.name}, size {config.size}", "",
        f"- command: `{command}`",
        f"- commit: {commit()}; machine: {machine()}",
        f"- cells: {len(outcomes)}, of which {len(outcomes) - len(good)} failed; "
        f"{seconds / 60:.1f} minutes of training and rendering, {max(config.jobs, 1)} at a time",
        f"- seeds: {', '.join(sorted({str(o.cell.seed) for o in good if o.cell.trained}))}; "
        "means over frames, then subjects; regions: PSNR over white, silhouettes count",
    ]  # fmt: skip
    lines += [f"- failed: {o.cell.name}: {o.error}" for o in outcomes if o.error]
    kinds = {"Trained": True, "Not trained": False}
    for title, trained in kinds.items():
        if own := [o for o in good if o.cell.trained == trained]:
            lines += ["", f"## {title}", "", tables.markdown(budget_table(own, shown)).rstrip()]
            for name in ("fg_psnr", *_lpips(own)):
                lines += ["", f"### {title}: {_title(name)} by subject", ""]
                lines.append(tables.markdown(subject_table(own, name)).rstrip())
    text = "\n".join([*lines, ""])
    write_text(folder / "budget.md", text)
    rows = [{**row, "subject": plain(str(row["subject"]))} for row in tables.sequence_rows(good)]
    write_csv(folder / "budget.csv", rows)
    for name in dict.fromkeys(plain(o.cell.subject) for o in good):
        own = [o for o in good if plain(o.cell.subject) == name]
        _, pictures = picture_rows(plan.subjects[name], own, 6)
        write_png(folder / f"budget_{name}.png", contact_sheet(pictures))
        if config.video_fps:
            made = [o for o in own if o.cell.config is not None]  # No ceilings.
            _, pictures = picture_rows(plan.subjects[name], made, len(own[0].rows))
            write_video(folder / f"budget_{name}.mp4", side_by_side(pictures), config.video_fps)
    return text


def _lpips(outcomes: Sequence[Outcome]) -> list[str]:
    return [n for n in tables.metric_names(outcomes) if n.startswith("fg_lpips")]


def means(outcomes: Sequence[Outcome], name: str) -> dict[str, dict[str, float]]:
    """By variant and the suite's subject: a number's mean over frames and seeds.

    Frames that do not show a region are left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for o in outcomes:
        values = [float(row[name]) for row in o.rows]
        found.setdefault(o.cell.system, {}).setdefault(plain(o.cell.subject), []).extend(values)
    return {
        variant: {subject: float(np.nanmean(v)) for subject, v in own.items()}
        for variant, own in found.items()
    }


def budget_table(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[list[str]]:
    """Header, and a variant's numbers in each row; behind the first, what they gain on it.

    Gains are over the subjects that both have, since cells may have failed.
    """
    titles = [_title(name) for name in names]
    by_name = {name: means(outcomes, name) for name in names}
    systems = list(dict.fromkeys(o.cell.system for o in outcomes))
    table = [["", *titles]]
    for system in systems:
        cells = [system]
        for name in names:
            value, first = (by_name[name][s] for s in (system, systems[0]))
            text = _number(name, _mean(value.values()))
            gain = _mean(value[s] - first[s] for s in value.keys() & first.keys())
            if system != systems[0] and np.isfinite(gain):
                text += f" ({_number(name, gain, '+')})"
            cells.append(text)
        table.append(cells)
    return table


def subject_table(outcomes: Sequence[Outcome], name: str) -> list[list[str]]:
    """Header, and per variant a number of each subject; nan where its cells failed."""
    found = means(outcomes, name)
    subjects = list(dict.fromkeys(plain(o.cell.subject) for o in outcomes))
    rows = [[row, *(_number(name, v.get(s, np.nan)) for s in subjects)] for row, v in found.items()]
    return [["", *subjects], *rows]


def _mean(values: Iterable[float]) -> float:
    """Mean; NaN of no values."""
    known = list(values)
    return float(np.mean(known)) if known else np.nan


def _title(name: str) -> str:
    own = f"{tables.variant_of(name)} {tables.title(name)}"
    return f"{name} PSNR" if name in REGIONS else own.strip()


def _number(name: str, value: float, sign: str = "-") -> str:
    return tables.number("psnr" if name in REGIONS else name, value, sign)
