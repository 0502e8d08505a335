"""Writes people with exact truth: a photo, the same pose from eight sides, other poses."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from persona.data.io import read_json, write_bytes, write_json, write_png
from persona.data.people.assets import read_assets
from persona.data.people.backdrop import backdrop
from persona.data.people.dressed import pose_dressed
from persona.data.people.look import Look
from persona.data.people.render import PersonMaps, render_person
from persona.data.people.scene import Casting, Person, Stance, frame_by, random_stance, stand
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, Camera

log = logging.getLogger(__name__)
PHOTO_FILE, META_FILE = "photo.jpg", "meta.json"
SETTINGS_FILE = "photo.json"
"""Holds everything that the photo depends on besides the seed."""
SIZE = (768, 576)
AZIMUTHS = tuple(range(0, 360, 45))
_FINE = 2
_FRONT_YAW = 0.45
"""Largest turn of a person in a photo, radians."""


def write_people(  # noqa: PLR0913 (by keyword)
    assets: str | Path,
    out: str | Path,
    *,
    count: int,
    seed: int,
    motions: Sequence[str],
    num_poses: int = 3,
    own: float = 0.5,
    height: int = SIZE[0],
    photos_only: bool = False,
    walk: bool = False,
    long_skirts: float = 0.0,
) -> None:
    """Writes ``out/person_SEED`` for ``count`` seeds from ``seed``.

    Complete people are kept. Of incomplete ones the photo is kept if these settings made it, so
    that a detector's finding in it stays valid.

    Args:
        assets: Folder of MakeHuman assets.
        out: Where to write.
        count: Number of people.
        seed: The first one's.
        motions: Where unseen poses come from.
        num_poses: Unseen poses per person.
        own: Share in the project's own wardrobe.
        height: Height of views and unseen poses, pixels; the photo has its own.
        photos_only: Writes the photos and their truth alone, for a detector to look at.
        walk: The views are those of a camera that walks round people in their light; else people
            turn in it.
        long_skirts: Share of those in the project's own wardrobe whose dress ends below the knee.

    Raises:
        UserError: The assets are incomplete or a motion cannot be read.
    """
    body = SmplxBody()
    casting = Casting(read_assets(assets, body), body, motions, long_skirts=long_skirts)
    made_by = {
        "own": own, "motions": [Path(motion).name for motion in motions],
        "assets": sorted(str(p.relative_to(assets)) for p in Path(assets).glob("*/*")),
    }  # fmt: skip
    if long_skirts:  # Folders from before this option stay valid without it.
        made_by["long_skirts"] = long_skirts
    for number in track(range(seed, seed + count), "people"):
        folder = Path(out) / f"person_{number}"
        meta = folder / META_FILE
        if meta.is_file() and read_json(meta).get("walk", False) != walk:
            log.warning("%s: made again, its views are of the other kind (walk)", folder)
            meta.unlink()
        if not meta.is_file():
            views = height, round(height * SIZE[1] / SIZE[0])
            poses = None if photos_only else num_poses
            _keep_photo_of(made_by, folder)
            _write_person(casting, folder, number, poses, own, views, walk)


def _keep_photo_of(made_by: dict[str, Any], folder: Path) -> None:
    """Deletes a photo that other or unknown settings made, and stores the settings."""
    settings, photo = folder / SETTINGS_FILE, folder / PHOTO_FILE
    if photo.is_file() and not (settings.is_file() and read_json(settings) == made_by):
        log.warning("%s: made again, by other settings than before", photo)
        photo.unlink()
    write_json(settings, made_by, indent=2)


def _write_person(
    casting: Casting,
    folder: Path,
    seed: int,
    num_poses: int | None,
    own: float,
    size: tuple[int, int],
    walk: bool,
) -> None:
    """Photo and truth, and unless ``num_poses`` is None the rest; ``size`` is that of the views."""
    rng = np.random.default_rng([seed, 11])
    person, joints = casting.person(rng, own), casting.pose(rng)
    front = random_stance(rng, front=1.0)
    stance = Stance(front.yaw * _FRONT_YAW / 1.05, front.tilt * 0.5, 0.0)
    joints[0] = 0
    vertices, _, pose = _posed(casting, person, joints, stance)
    focal = rng.uniform(1.2, 2.2)
    shift, camera = frame_by(vertices, SIZE, focal, rng.uniform(0.72, 0.92))
    pose = BodyPose.from_joints(pose.joints, pose.expression, pose.trans + shift)
    maps, truth = _shot(casting, person, pose, camera)
    quality = int(rng.integers(70, 97))
    photo = _jpeg(_blend(maps, backdrop(rng, *SIZE)), quality)
    if not (folder / PHOTO_FILE).is_file():
        write_bytes(folder / PHOTO_FILE, photo)
    betas = {"betas": person.betas.numpy()}
    _write_npz(folder / "truth.npz", truth | _parameters(pose, camera) | betas)
    if num_poses is None:
        return
    for azimuth in AZIMUTHS:
        around = Stance(stance.yaw + math.radians(azimuth), stance.tilt, 0.0)
        turned = stand(casting.body, joints, around)
        turned = BodyPose.from_joints(turned.joints, turned.expression, turned.trans + shift)
        seen_by, lit = camera.resize(*size), person
        if walk:
            lit = replace(person, look=light_turned(person.look, pose, turned))
        _write_view(casting, lit, turned, seen_by, folder / f"views/{azimuth:03d}")
    for index in range(num_poses):
        other = casting.poses[int(rng.integers(len(casting.poses)))].clone()
        other[0] = 0
        moved, _, unseen = _posed(casting, person, other, Stance(rng.uniform(-math.pi, math.pi)))
        place, camera = frame_by(moved, SIZE, focal, 0.85)
        unseen = BodyPose.from_joints(unseen.joints, unseen.expression, unseen.trans + place)
        _write_view(casting, person, unseen, camera.resize(*size), folder / f"poses/{index}")
    write_json(folder / META_FILE, {
        "seed": seed, "turn_deg": math.degrees(stance.yaw), "focal_over_height": focal,
        "distance_m": float(shift[2]), "jpeg": quality, "walk": walk,
    })  # fmt: skip


def light_turned(look: Look, before: BodyPose, after: BodyPose) -> Look:
    """A light that has turned with a person from one pose to another, in the camera's frame."""
    turn = matrix_from_axis_angle(after.root) @ matrix_from_axis_angle(before.root).T
    # Lamps have y up and z to the camera, poses y down and z away.
    lamps = look.lamp * look.lamp.new_tensor([1, -1, -1]) @ turn.T
    return replace(look, lamp=lamps * look.lamp.new_tensor([1, -1, -1]))


def _posed(
    casting: Casting, person: Person, joints: Float[Tensor, "55 3"], stance: Stance
) -> tuple[Tensor, Tensor, BodyPose]:
    pose = stand(casting.body, joints, stance)
    return *pose_dressed(casting.body, person.outfit.mesh, person.betas, pose), pose


def _shot(
    casting: Casting, person: Person, pose: BodyPose, camera: Camera
) -> tuple[PersonMaps, dict[str, np.ndarray]]:
    """A picture at twice the size, and its labels at every other pixel."""
    mesh = person.outfit.mesh
    vertices, joints = pose_dressed(casting.body, mesh, person.betas, pose)
    fine = camera.resize(camera.height * _FINE, camera.width * _FINE)
    maps = render_person(mesh, vertices, person.look, casting.assets.textures, fine)
    covered = F.avg_pool2d(maps.mask[None].float(), _FINE)[0] > 0.5
    return maps, {
        "mask": covered.numpy(),
        "parts": (maps.part[::_FINE, ::_FINE] * covered).numpy().astype(np.uint8),
        "joints": joints.numpy(),
        "vertices": vertices[: casting.body.num_vertices].numpy().astype(np.float16),
    }


def _write_view(
    casting: Casting, person: Person, pose: BodyPose, camera: Camera, stem: Path
) -> None:
    maps, truth = _shot(casting, person, pose, camera)
    white = np.ones((camera.height, camera.width, 3), np.float32)
    write_png(stem.with_name(stem.name + ".png"), _blend(maps, white))
    write_png(stem.with_name(stem.name + "_mask.png"), truth["mask"])
    keep = {k: truth[k] for k in ("parts", "joints")}
    _write_npz(stem.with_name(stem.name + ".npz"), keep | _parameters(pose, camera))


def _blend(maps: PersonMaps, ground: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The person before a background, smoothed from twice the size."""
    height, width = ground.shape[:2]
    mask = maps.mask[None].float()
    both = torch.cat((maps.colour * mask, mask)).permute(1, 2, 0).numpy()
    small = cv2.resize(both, (width, height), interpolation=cv2.INTER_AREA)
    image = small[..., :3] + ground * (1 - small[..., 3:])
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def _parameters(pose: BodyPose, camera: Camera) -> dict[str, np.ndarray]:
    names = ("root", "body", "jaw", "left_hand", "right_hand", "expression", "trans")
    return {name: getattr(pose, name).numpy() for name in names} | {
        "focal_px": camera.focal_px.numpy(), "center_px": camera.center_px.numpy(),
    }  # fmt: skip


def _jpeg(image: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # None is an option.
    write_bytes(path, buffer.getvalue())
