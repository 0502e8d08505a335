"""Scores one person: runs the photo path where asked, renders, and leaves row and pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.benchmark.photo.failures import gross_failures
from persona.benchmark.photo.fit_scores import fit_scores
from persona.benchmark.photo.fitted import FittedPerson, read_fitted
from persona.benchmark.photo.picture_scores import (
    Lpips,
    asset_scores,
    face_cover,
    face_psnr,
    hand_covers,
    lpips_by,
)
from persona.benchmark.photo.sheet import person_sheet, strip
from persona.benchmark.photo.truth import TruePerson, TrueView, folder_of, read_person
from persona.benchmark.photo.views import (
    Painter,
    Picture,
    avatar_painter,
    paint_poses,
    paint_views,
    texture_painter,
)
from persona.benchmark.plan import one_line
from persona.benchmark.report import commit
from persona.commands.experiment import load_system
from persona.data.io import read_json, write_json, write_png
from persona.data.preprocess.fit import Known
from persona.data.preprocess.photo import PhotoPreprocessor
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.perceptual import missing_weights, shared_perceptual

Row = dict[str, float | str]
ROWS, STRIPS, SUBJECTS = "rows", "strips", "subjects"
TEXTURE, AVATAR = "texture", "avatar"
AVATAR_VERSION = 2
"""Increased when the same settings give other numbers of an avatar."""


@dataclass(frozen=True)
class Scorer:
    """Settings and models that all people of a run share."""

    config: DictConfig
    folder: Path
    """Folder of the report."""
    body: SmplxBody
    preprocessor: PhotoPreprocessor | None
    """None scores subjects that are there."""
    lpips: Lpips | None

    @classmethod
    def of(cls, config: DictConfig, folder: Path) -> Scorer:
        """Builds what the configuration names."""
        preprocessor = None if config.subjects else instantiate(config.preprocess)
        body = instantiate(config.body) if preprocessor is None else preprocessor.body
        return cls(config, folder, body, preprocessor, lpips_of(config.lpips_net))

    def __call__(self, person: Path) -> Row:
        """Scores a person; the row is written last, when everything else is done."""
        path = self.folder / ROWS / f"{person.name}.json"
        row: Row = {"person": person.name, "code": self.config.code, "digest": self.digest(person)}
        try:
            true = read_person(person)
            known = true.known(self.body, self.config.truth)
        except UserError as error:
            row["damaged"] = one_line(error)
            write_json(path, row)
            return row
        started = time.perf_counter()
        try:
            row |= self.scored(true, known, row)
        except Exception as error:  # A crash is a result too; the next person is scored.
            row["error"] = one_line(error)
            row["gross"] = "; ".join(gross_failures(row))
            self.draw_strip(true, None, [], {}, row)
        row |= {"commit": commit(), "seconds": time.perf_counter() - started}
        write_json(path, row)
        return row

    def scored(self, true: TruePerson, known: Known, who: Row) -> Row:
        """All numbers; sheet and strip are left in the folder."""
        subject, row = self.subject(true, known)
        fitted = read_fitted(subject, self.body, true.image, known.focal_px)
        row |= fit_scores(true, fitted)
        views, poses = sides(true, self.config.height, self.config.width)
        assets: dict[str, dict[str, Picture]] = {}
        painters = {TEXTURE: texture_painter(self.body, fitted.identity, fitted.textures)}
        if self.config.avatars:
            painters[AVATAR] = self.avatar(true)
        for name, painter in painters.items():
            assets[name] = painted(painter, fitted, views, poses, painters[TEXTURE])
            scores = asset_scores(assets[name], [*views, *poses], self.lpips)
            row |= {f"{name}_{key}": value for key, value in scores.items()}
        row |= front_checks(assets[TEXTURE], views)
        row["gross"] = "; ".join(gross_failures(row))
        verdict = f"{true.name} ({who['code']}): {row['gross'] or 'no gross failure'}"
        sheet = person_sheet(true, fitted, [*views, *poses], assets, verdict)
        write_png(self.folder / f"sheet_{true.name}.png", sheet)
        self.draw_strip(true, fitted, views, assets[TEXTURE], row)
        return row

    def subject(self, true: TruePerson, known: Known) -> tuple[Subject, Row]:
        """The person's subject folder, made now where none is given, and how long that took."""
        root = subject_folder(self.config, self.folder, true.name)
        if self.preprocessor is None:
            return Subject(root), {}
        started = time.perf_counter()
        shutil.rmtree(root, ignore_errors=True)
        views = [f"views/{azimuth:03d}.png" for azimuth in self.config.extra_views]
        photos = [true.photo, *(true.photo.parent / view for view in views)]
        subject = self.preprocessor.run(photos, root, known)
        return subject, {"preprocess_seconds": time.perf_counter() - started}

    def avatar(self, true: TruePerson) -> Painter:
        """Draws the avatar in the person's run folder."""
        run = folder_of(true.name, Path(self.config.avatars), self.config.pattern)
        return avatar_painter(load_system(run))

    def draw_strip(
        self,
        true: TruePerson,
        fitted: FittedPerson | None,
        views: list[TrueView],
        pictures: Mapping[str, Picture],
        row: Row,
    ) -> None:
        """Its line of the overview."""
        image = strip(true, fitted, views, pictures, bool(row["gross"]))
        write_png(self.folder / STRIPS / f"{true.name}.png", image)

    def digest(self, person: Path) -> str:
        """Hash of the options and the files that a row is made from."""
        return row_digest(self.config, person)


def lpips_of(net: str | None) -> Lpips | None:
    """LPIPS by a network; None where none is named or its weights are missing."""
    network = None if net is None or missing_weights(net) else shared_perceptual(net)
    return None if network is None else lpips_by(network)


def sides(true: TruePerson, height: int, width: int) -> tuple[list[TrueView], list[TrueView]]:
    """The truth's views and unseen poses at the size in which renders are compared, pixels."""
    views, poses = ([v.resized(height, width) for v in side] for side in (true.views, true.poses))
    return views, poses


def subject_folder(config: DictConfig, folder: Path, name: str) -> Path:
    """Where a person's subject lies.

    Args:
        config: Configuration of the yardstick.
        folder: Folder of the report.
        name: The person's.

    Raises:
        UserError: ``config.subjects`` has none, or more than one.
    """
    if config.subjects:
        return folder_of(name, Path(config.subjects), config.pattern)
    return folder / SUBJECTS / name


def row_digest(config: DictConfig, person: Path) -> str:
    """Changes with the options, the photo, and the subject that is scored."""
    keys = ("code", "subjects", "pattern", "avatars", "height", "width", "lpips_net")
    options = {key: config[key] for key in keys}
    options["extra_views"] = list(config.extra_views)
    if config.avatars:
        options["avatar_version"] = AVATAR_VERSION
    if not config.subjects:
        options["truth"] = list(config.truth)
        options["preprocess"] = OmegaConf.to_container(config.preprocess, resolve=True)
    files = [person / "photo.jpg"]
    if config.subjects:
        try:
            found = folder_of(person.name, Path(config.subjects), config.pattern)
            files.append(found / "subject.json")
        except UserError:
            pass  # Its row will say so.
    stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in files]
    text = json.dumps([options, stamps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished_row(config: DictConfig, folder: Path, person: Path) -> Row | None:
    """The person's row of an earlier run with the same options."""
    path = folder / ROWS / f"{person.name}.json"
    if not path.exists():
        return None
    row = read_json(path)
    return row if row.get("digest") == row_digest(config, person) else None


def painted(
    painter: Painter,
    fitted: FittedPerson,
    views: list[TrueView],
    poses: list[TrueView],
    outlined: Painter,
) -> dict[str, Picture]:
    """All pictures of an asset by the view's name; only poses where the truth has no views.

    ``outlined`` says by its silhouettes where the fit lies: for all assets the texture on the body.
    """
    pictures = {}
    if any(view.azimuth == 0 for view in views):
        pictures = paint_views(painter, fitted.pose, fitted.camera, views, outlined)
    return pictures | paint_poses(painter, poses, outlined)


def front_checks(pictures: Mapping[str, Picture], views: list[TrueView]) -> Row:
    """Scores of face and hands in the photo's own view."""
    front = next((view for view in views if view.azimuth == 0), None)
    if front is None or front.parts is None:
        return {}
    picture, row = pictures[front.name], Row()
    if (value := face_psnr(picture, front)) is not None:
        row |= {"face_db": value, "face_cover": face_cover(picture, front)}
    for hand, cover in hand_covers(picture, front).items():
        row[f"{hand.lower()}_cover"] = cover
    return row
