"""Tables of trained avatars: against the texture that they start from, and among schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from persona.benchmark.photo.score import AVATAR, TEXTURE, Row
from persona.benchmark.photo.table import comparison_line, differences
from persona.benchmark.report import commit, machine
from persona.benchmark.tables import markdown
from persona.data.io import write_csv, write_text

TIMES = ("seconds", "cpu", "build_seconds", "train_seconds", "steps", "gaussians")
GROUPS = ("front", "side", "back", "poses")
NUMBERS = ("psnr", "union_psnr", "lpips", "iou")
REGIONS = ("face", "hands", "hair", "cloth")
SHOWN = tuple(f"{group}_{number}" for group in GROUPS for number in NUMBERS) + tuple(
    f"{group}_{region}_psnr" for group in ("all", "poses") for region in REGIONS
)


def write_avatar_tables(
    folder: Path,
    avatars: Sequence[Row],
    textures: Mapping[str, Row],
    schedules: Sequence[str],
    command: str,
) -> Path:
    """Writes avatars.csv and avatars.md. Returns the latter.

    Args:
        folder: Takes them.
        avatars: A row per training that is there.
        textures: The yardstick's rows by person, with the numbers of the untrained texture.
        schedules: Their order; the others are compared with the first.
        command: That made them.
    """
    write_csv(folder / "avatars.csv", avatars)
    by_schedule = {
        name: {str(row["person"]): row for row in avatars if row["schedule"] == name}
        for name in schedules
    }
    lines = [
        "# Trained avatars and the texture they start from", "",
        f"`{command}`; commit {commit()}; {machine()}.", "",
        "The texture is what `system=textured_mesh` shows: the filled texture on the fitted body, "
        "without training. All are seen from the truth's sides in the fitted pose, and in the "
        "truth's other poses. PSNR inside both silhouettes, union_psnr inside either; differences "
        "are of the same people, their interval is a bootstrap over people.", "",
        "## Times and sizes", "", markdown(time_table(by_schedule)),
    ]  # fmt: skip
    for name, found in by_schedule.items():
        pairs = [(scores(textures[p], TEXTURE), scores(row, AVATAR)) for p, row in found.items()]
        lines += _section(f"{name} against its texture", ("texture", name), pairs)
    first, *others = schedules
    for name in others:
        both = [p for p in by_schedule[name] if p in by_schedule[first]]
        pairs = [
            (scores(by_schedule[first][p], AVATAR), scores(by_schedule[name][p], AVATAR))
            for p in both
        ]
        lines += _section(f"{name} against {first}", (first, name), pairs)
    write_text(folder / "avatars.md", "\n".join(lines))
    return folder / "avatars.md"


def scores(row: Row, asset: str) -> Row:
    """The numbers of one asset that are shown, without its name before them."""
    return {key: row[f"{asset}_{key}"] for key in SHOWN if f"{asset}_{key}" in row}


def time_table(rows: Mapping[str, Mapping[str, Row]]) -> list[list[str]]:
    """A line per schedule: means over people."""
    table = [["schedule", "people", *TIMES]]
    for name, found in rows.items():
        if found:
            means = (sum(float(r[k]) for r in found.values()) / len(found) for k in TIMES)
            table.append([name, str(len(found)), *(f"{value:.0f}" for value in means)])
    return table


def _section(title: str, sides: tuple[str, str], pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    """Both sides' means and the difference, number by number."""
    found = differences(pairs)
    if not found:
        return []
    header = ["number", "people", *sides, "difference [95 %]", "better"]
    rows = [comparison_line(row, sides) for row in found]
    return [f"## {title[0].upper()}{title[1:]}", "", markdown([header, *rows])]
