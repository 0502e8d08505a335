"""Films synthetic people, tracks their motion in the films, and measures its errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from persona.benchmark.track.scores import UNITS, angle_deg, film_scores, turn_deg
from persona.commands.video_file import write_video
from persona.data.io import read_json, write_csv, write_json, write_text
from persona.data.people.film import Film, FilmPlan, draw_film, plan_film
from persona.data.people.scene import casting
from persona.data.preprocess.fit import photo_camera
from persona.data.track.clip_fit import ClipFit, chained
from persona.data.track.gaze import gaze
from persona.data.track.sightings import joined, write_tensors
from persona.data.track.video import Video
from persona.data.track.watch import Watcher
from persona.data.track.windows import Fitted, read_sightings
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect.following import Follower
from persona.modules.perception.annotator import PerceptionAnnotator
from persona.modules.threads import use_threads
from persona.runtime.apart import results_of
from persona.types import BodyIdentity

VERSION = 2
"""To be raised whenever a change of the code films or watches otherwise by the same settings."""
WAYS = ("each frame alone", "whole clip", "whole clip, focal length known")
Row = dict[str, float | int | str]


def run_track_benchmark(config: DictConfig, folder: Path) -> Path:
    """Writes films, ``table.csv`` and ``report.md`` into ``folder``. Returns the report's path."""
    work = partial(score_film, assets=str(config.assets), folder=folder)
    groups = results_of(work, film_plans(config), config.jobs)
    rows = sorted((row for group in groups for row in group), key=itemgetter("film"))
    write_csv(folder / "table.csv", rows)
    write_text(folder / "report.md", report(rows))
    return folder / "report.md"


def film_plans(config: DictConfig) -> list[FilmPlan]:
    """Motions, cameras and obstacles in turn; a seed for each film, one after the other.

    Raises:
        UserError: no assets.
    """
    if not Path(str(config.assets)).is_dir():
        raise UserError(f"assets={config.assets}: no such folder; give MakeHuman's assets")
    plans = []
    for number in range(config.count):
        motion = config.motions[number % len(config.motions)]
        moving, occluded = bool(number // 2 % 2), number % 3 == 2
        plans.append(
            FilmPlan(
                motion, moving, occluded, config.seed + number, config.num_frames,
                float(config.fps), config.height, config.width,
            )
        )  # fmt: skip
    return plans


def score_film(plan: FilmPlan, assets: str, folder: Path) -> list[Row]:
    """A row for each way to read one film.

    The film and its sightings are kept in ``folder`` and reused, so that another fit can be scored
    on a machine without a detector; watching then takes no time. Those of another version are made
    anew.
    """
    use_threads(1)
    body = SmplxBody()
    cast = casting(assets, body)
    film = plan_film(cast, plan)
    guessed = photo_camera(plan.height, plan.width)
    told, described = folder / f"film_{plan.seed}.json", asdict(plan)
    before = read_json(told) if told.is_file() else {}
    version = before.pop("version", None)
    if before and before != described:
        raise UserError(
            f"{told}: the film there was made by other settings; give another hydra.run.dir="
        )
    kept, watched_s = folder / f"seen_{plan.seed}.npz", 0.0
    if version != VERSION:
        kept.unlink(missing_ok=True)
        (folder / f"film_{plan.seed}.mp4").unlink(missing_ok=True)
    write_json(told, described | {"version": VERSION})
    if not kept.is_file():
        path = folder / f"film_{plan.seed}.mp4"
        if not path.is_file():
            write_video(path, draw_film(cast, film), plan.fps)
        start = time.perf_counter()
        watcher = Watcher(Video.open(path, plan.fps), guessed, PerceptionAnnotator())
        frames = watcher.chunks(range(plan.num_frames), None, lambda _: None)
        write_tensors(kept, joined(list(frames)))
        watched_s = time.perf_counter() - start
    seen = read_sightings(kept)
    rows: list[Row] = []
    for way in WAYS:
        camera = film.camera if "known" in way else guessed
        start = time.perf_counter()
        fit = ClipFit(body, camera, plan.fps, alone=way == WAYS[0], offsets=Follower.offsets)
        state = fit(seen)
        took_s = time.perf_counter() - start
        fitted = Fitted(
            **state.frames(slice(None)), eyes=gaze(seen.keypoints, plan.fps), seen=seen.seen,
            turn=seen.turn,
        )  # fmt: skip
        shapes = [state.identity(i if way == WAYS[0] else 0).detach() for i in range(len(seen))]
        scores = _scores(body, film, fitted, shapes)
        rows.append({
            "film": plan.seed, "motion": plan.motion, "moving": int(plan.moving),
            "occluded": int(plan.occluded), "way": way,
            **{name: round(value, 3) for name, value in scores.items()},
            "unseen": int((~seen.seen).sum()), "watch_s_per_frame": round(watched_s / len(seen), 3),
            "fit_s_per_frame": round(took_s / len(seen), 3),
        })  # fmt: skip
    return rows


def _scores(
    body: SmplxBody, film: Film, fitted: Fitted, shapes: Sequence[BodyIdentity]
) -> dict[str, float]:
    pose = fitted.pose()
    joints = torch.cat([body(s, pose[i : i + 1])[1] for i, s in enumerate(shapes)])
    scores = film_scores(joints, film.joints, film.plan.fps)
    scores["jaw"] = angle_deg(pose.jaw, film.pose.jaw)
    scores["eyes"] = angle_deg(pose.left_eye, film.pose.left_eye)
    # The score of a face that never moves.
    still = torch.zeros_like(pose.jaw)
    scores["jaw_still"] = angle_deg(still, film.pose.jaw)
    scores["eyes_still"] = angle_deg(still, film.pose.left_eye)
    scores["camera"] = turn_deg(chained(fitted.turn), film.turns)
    return scores


def report(rows: Sequence[Row]) -> str:
    """Means over films by way, and by kind of film."""
    films = sorted({row["film"] for row in rows})
    lines = [
        f"{len(films)} films, seeds {films[0]} to {films[-1]}; means over films.", "",
        "| | films | " + " | ".join(f"{name}, {unit}" for name, unit in UNITS.items()) + " |",
        "|---" * (len(UNITS) + 2) + "|",
    ]  # fmt: skip
    kinds = {
        "all": lambda row: True,
        "camera still": lambda row: not row["moving"],
        "camera moving": lambda row: row["moving"],
        "something in the way": lambda row: row["occluded"],
    }
    for kind, chosen in kinds.items():
        for way in WAYS:
            group = [row for row in rows if row["way"] == way and chosen(row)]
            if group:
                means = [f"{np.mean([float(r[name]) for r in group]):.1f}" for name in UNITS]
                lines.append(f"| {kind}: {way} | {len(group)} | " + " | ".join(means) + " |")
    whole = [row for row in rows if row["way"] == WAYS[1]]
    fit = np.mean([float(row["fit_s_per_frame"]) for row in whole])
    watched = [float(row["watch_s_per_frame"]) for row in whole if row["watch_s_per_frame"]]
    seen = f"watching {np.mean(watched):.2f}, " if watched else ""  # Kept films take no time.
    lines += ["", f"Seconds a frame on one thread: {seen}fitting {fit:.2f}."]
    return "\n".join(lines) + "\n"
