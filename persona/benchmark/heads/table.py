"""The table of heads: one row per system, with means over people and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from persona.benchmark.tables import markdown
from persona.data.io import write_csv, write_text

COLUMNS = {
    "source_psnr": ("PSNR ↑", 2), "source_ssim": ("SSIM ↑", 4), "source_lpips": ("LPIPS ↓", 4),
    "edits_psnr": ("edits PSNR ↑", 2), "edits_ssim": ("edits SSIM ↑", 4),
    "edits_lpips": ("edits LPIPS ↓", 4),
    "edit_error": ("edit error ↓", 4), "drift": ("drift ↓", 4), "edit_size": ("edit size", 4),
    "ppl": ("PPL ↓", 4), "100pdv": ("100 PDV ↓", 4),
    "new_error_before": ("new edit, foreseen ↓", 4), "new_error": ("learnt ↓", 4),
    "new_size": ("new edit size", 4), "moved": ("others moved ↓", 4),
    "train_seconds": ("train s", 0),
}  # fmt: skip
"""Title and digits by the name of a number; LPIPS stands for that of any network."""
NOTE = """
PSNR, SSIM, LPIPS: unseen expressions and views of the person as photographed, and of the edits; on
white, the render under its own alpha. Edit error: mean absolute difference from the truth where the
truth of the edit differs from that of the person ("edit size" is that difference). Drift: of the
edited render from the unedited one everywhere else. PPL, PDV: nine pictures between each two codes
of an attribute. New edit (`new_edit`, of which a system may have its own): the same error, as
the edit's picture and words alone foresee it before it is trained on, then learnt: by low-rank
additions, by all weights, or among all others from the start; others moved: mean absolute
difference of the renders of all other edits from what they were. Means over people and seeds, with
the deviation over them; seconds are those of several trainings side by side.
"""
SPEED = """
## PERSE's step at {side} x {side} pixels, {points} Gaussians

On {device}, medians of {steps}, in turn, in one process; perceptual loss left out. The public order
copies the latent to every point and computes the derivative of the warp, which it does not use.

| | ours | public order | ratio |
|---|---|---|---|
| training step, ms | {ours_step_ms:.1f} | {public_order_step_ms:.1f} | {step_ratio:.2f} |
| frames per second | {ours_fps:.1f} | {public_order_fps:.1f} | {fps_ratio:.2f} |
"""
Result = Mapping[str, float | int | str]


def write_tables(
    folder: Path,
    results: Sequence[Result],
    order: Sequence[str],
    planned: Mapping[str, int],
    speed: Result | None = None,
) -> None:
    """Writes cells.csv with every cell, and table.csv and table.md with a row per system.

    Args:
        folder: Folder to write to.
        results: Results of the cells.
        order: Order of the systems.
        planned: Number of cells by system; a row says if some of them are missing.
        speed: Result of ``compare_speed``; empty or None leaves it out.
    """
    write_csv(folder / "cells.csv", results)
    rows = [summary(name, own) for name in order if (own := of_system(results, name))]
    write_csv(folder / "table.csv", rows)
    shown = [name for name in COLUMNS if any(spread_of(of_system(results, s), name) for s in order)]
    header = ["system", "cells", *(COLUMNS[name][0] for name in shown)]
    lines = [
        [system, counted(len(own), planned.get(system, 0)),
         *(text_of(spread_of(own, n), COLUMNS[n][1]) for n in shown)]
        for system in order if (own := of_system(results, system)) or planned.get(system)
    ]  # fmt: skip
    below = SPEED.format(**speed) if speed else ""
    write_text(folder / "table.md", markdown([header, *lines]) + NOTE + below)


def counted(there: int, planned: int) -> str:
    """The number of cells in a row; if some are missing, also the number planned."""
    return f"**{there} of {planned}**" if there < planned else str(there)


def of_system(results: Sequence[Result], system: str) -> list[Result]:
    """Results of a system's cells."""
    return [result for result in results if result["system"] == system]


def spread_of(results: Sequence[Result], name: str) -> tuple[float, float | None] | None:
    """Mean and deviation of a number over cells; None if no cell has it."""
    found = [float(value) for result in results for key, value in result.items()
             if key == name or (name.endswith("lpips") and key.startswith(f"{name}_"))]  # fmt: skip
    if not found:
        return None
    return fmean(found), stdev(found) if len(found) > 1 else None


def summary(system: str, results: Sequence[Result]) -> dict[str, float | str | int]:
    """One row of table.csv."""
    row: dict[str, float | str | int] = {"system": system, "cells": len(results)}
    for name in COLUMNS:
        if found := spread_of(results, name):
            row[name] = found[0]
            row[f"{name}_std"] = "" if found[1] is None else found[1]
    return row


def text_of(found: tuple[float, float | None] | None, digits: int) -> str:
    """Mean ± deviation as text; empty without a number."""
    if found is None:
        return ""
    mean, spread = found
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
