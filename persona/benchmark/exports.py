"""Every export format of one avatar: its size, and its quality as read by other programs."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from persona.benchmark.web_reader import DRAWN, READ_BY, web_picture
from persona.commands.avatar_export import AvatarExport
from persona.commands.export import LIT, check_export, exporter_of, losses_of_rigs
from persona.commands.export_loss import SIZE, over_white
from persona.data.export.extras import extra
from persona.data.export.formats import FORMATS
from persona.data.export.scene import SH_C0, Splats
from persona.data.io import write_text
from persona.data.motion.camera import fit_camera
from persona.data.numbers import whole_number
from persona.errors import UserError
from persona.types import Camera, Channel, Gaussians

log = logging.getLogger(__name__)
_NAME, _PATIENCE_S = "avatar", 600
Shown = tuple[float | None, str]
"""PSNR in dB, and who read the file, or why nobody did."""
Row = tuple[str, float | None, Shown, Shown]
"""Format, megabytes, and how it looks as read and as drawn by a browser."""


def run_export_benchmark(config: DictConfig, folder: Path) -> Path:
    """Writes the files and ``report.md``. Returns the report's path.

    Raises:
        UserError: a bad option, or a run that cannot be exported.
    """
    formats = check_export(config)
    frame = whole_number("frame", config.frame, low=0)  # One: another pose is another table.
    exporter = exporter_of(config)
    scene = exporter.scene(_NAME, frame)
    own = scene.posed(frame)
    moved = [kind for kind in formats if FORMATS[kind].rigged and kind != "npz"]
    rigs = losses_of_rigs(exporter, frame) if config.losses and moved else {}
    rows: list[Row] = []
    for kind in formats:
        path = folder / f"{_NAME}{FORMATS[kind].suffix}"
        try:
            FORMATS[kind].write(scene, path)
        except UserError as error:
            rows.append((kind, None, (None, f"not written: {error}"), (None, "")))
        else:
            log.info("%s: %d bytes", path.name, path.stat().st_size)
            if kind in moved:
                loss = rig_loss(kind, rigs, exporter.settings.offsets)
                shown: Shown = loss, "the rig, drawn here over the motion"
            else:
                shown = shows(exporter, kind, path, own, frame)
            browser = (
                browser_shows(exporter, kind, path, own, frame) if config.browser else (None, "")
            )
            rows.append((kind, path.stat().st_size / 1e6, shown, browser))
        # Each format takes long, so the report is written after each, in case the next one fails.
        write_text(folder / "report.md", report(exporter, rows))
    return folder / "report.md"


def report(exporter: AvatarExport, rows: Sequence[Row]) -> str:
    """The table."""
    count = len(exporter.posed(0).means)
    lines = [
        f"{count} Gaussians; {len(exporter.motion)} frames of {exporter.motion.source}.", "",
        "| format | MB | to the avatar's own render, dB | read by | drawn by others, dB | by |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, size, *readings in rows:
        cells = [f"`{kind}`", "" if size is None else f"{size:.1f}"]
        for value, reader in readings:
            cells += ["" if value is None else "equal" if value > 90 else f"{value:.1f}", reader]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rig_loss(kind: str, rigs: Mapping[str, float], offsets: str) -> float | None:
    """Loss of a format that moves by a rig, from those of all rigs; see ``losses_of_rigs``."""
    if kind == "mesh":
        return rigs.get("textured mesh")
    if kind == "html" and LIT in rigs:
        return rigs[LIT]
    began = "offsets left out" if offsets == "none" else "offsets of frame"
    return next((loss for name, loss in rigs.items() if name.startswith(began)), None)


def shows(exporter: AvatarExport, kind: str, path: Path, own: Splats, frame: int) -> Shown:
    """PSNR of the pose in a file, and the program that read it; None if no reader is installed.

    Args:
        exporter: Exporter of the avatar.
        kind: The format.
        path: The file.
        own: The avatar itself in that pose.
        frame: Frame of the motion that gives the pose.
    """
    if kind not in READERS:
        return None, "nobody here"
    try:
        read, reader = READERS[kind](path, own, frame)
    except UserError as error:
        return None, str(error)
    return _psnr(_drawn(exporter, read, own), _drawn(exporter, own, own)), reader


def browser_shows(exporter: AvatarExport, kind: str, path: Path, own: Splats, frame: int) -> Shown:
    """As ``shows``, but drawn by other programs in a browser as well."""
    if kind not in DRAWN:
        return None, ""
    seconds, blur = frame / exporter.motion.fps, exporter.system.renderer.eps2d
    try:
        picture = web_picture(path, kind, camera_on(own), seconds, blur)
    except UserError as error:
        return None, str(error)
    drawn = torch.from_numpy(picture).float().permute(2, 0, 1)
    return _psnr(drawn, _drawn(exporter, own, own)), READ_BY.get(kind, "Spark")


def camera_on(seen: Splats) -> Camera:
    """A camera in the files' world that sees all of an avatar."""
    camera, shift = fit_camera(torch.from_numpy(seen.turned_about_x().means), *SIZE)
    view = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    view[:3, 3] = shift
    return replace(camera, cam_from_world=view)


def _psnr(image: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> float:
    return float(-10 * (image - truth).square().mean().clamp(min=1e-12).log10())


@torch.no_grad()
def _drawn(exporter: AvatarExport, splats: Splats, seen: Splats) -> Float[Tensor, "3 h w"]:
    """Drawn by the avatar's renderer, in a camera that sees all of ``seen``."""
    parts = ("means", "scales", "quaternions", "opacities", "rgb")
    *shape, rgb = (torch.from_numpy(getattr(splats, name)) for name in parts)
    render = exporter.system.renderer(Gaussians(*shape), camera_on(seen), {"rgb": Channel(rgb)})
    return over_white(render.images["rgb"], render.alpha)


Read = tuple[Splats, str]


def _from_ply(source: Path | io.BytesIO) -> Splats:
    """What plyfile reads, in the file's axes."""
    vertex = extra("plyfile").PlyData.read(source)["vertex"]

    def columns(*names: str) -> Float[ndarray, "n c"]:
        return np.stack([np.asarray(vertex[name], np.float32) for name in names], 1)

    opacity = 1 / (1 + np.exp(-columns("opacity")[:, 0].astype(np.float64)))
    return Splats(
        columns(*"xyz"), np.exp(columns("scale_0", "scale_1", "scale_2")),
        columns("rot_0", "rot_1", "rot_2", "rot_3"), opacity.astype(np.float32),
        0.5 + SH_C0 * columns("f_dc_0", "f_dc_1", "f_dc_2"),
    )  # fmt: skip


def _ply(path: Path, own: Splats, frame: int) -> Read:
    return _from_ply(path).turned_about_x(), "plyfile"


def _converted(path: Path, own: Splats, frame: int) -> Read:
    """What PlayCanvas's program makes of a file.

    Raises:
        UserError: it is not there, or refuses.
    """
    program = shutil.which("splat-transform")
    if program is None:
        raise UserError("nobody: npm install --global @playcanvas/splat-transform")
    target = path.with_name("read.ply")
    command = [program, "-w", str(path), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise UserError("nobody: splat-transform did not end") from error
    if done.returncode or not target.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"nobody: splat-transform refuses it ({said[0] if said else 'silently'})")
    read = _from_ply(target).turned_about_x()
    target.unlink()
    return read, "splat-transform, plyfile"


def _splattie(path: Path, own: Splats, frame: int) -> Read:
    with zipfile.ZipFile(path) as archive:
        read = _from_ply(io.BytesIO(archive.read("avatar.ply")))
    # The widget's camera looks at the origin.
    middle = (own.means.min(0) + own.means.max(0)) / 2
    return replace(read, means=read.means + middle), "zipfile, plyfile"


def _lam(path: Path, own: Splats, frame: int) -> Read:
    with zipfile.ZipFile(path) as archive:
        read = _from_ply(io.BytesIO(archive.read(f"{_NAME}/offset.ply")))
        skin = archive.read(f"{_NAME}/skin.glb")
    file = extra("pygltflib", "dev").GLTF2().load_from_bytes(skin)
    accessor = file.accessors[file.meshes[0].primitives[0].attributes.POSITION]
    start = file.bufferViews[accessor.bufferView].byteOffset
    vertices = np.frombuffer(file.binary_blob(), "<f4", 3 * accessor.count, start).reshape(-1, 3)
    means = vertices + read.means
    # Places are moved so that the eyes are where the page looks.
    means = means + (own.means.mean(0) - means.mean(0))
    rgb = ((read.rgb - 0.5) / SH_C0).astype(np.float32)
    return replace(read, means=means, rgb=rgb), "zipfile, pygltflib, plyfile"


def _usd(path: Path, own: Splats, frame: int) -> Read:
    usd, vol = extra("pxr.Usd"), extra("pxr.UsdVol")
    stage = usd.Stage.Open(str(path))
    prim = vol.ParticleField3DGaussianSplat(stage.GetPrimAtPath("/avatar/splats"))
    getters = (
        prim.GetPositionsAttr, prim.GetScalesAttr, prim.GetOrientationsAttr, prim.GetOpacitiesAttr,
        prim.GetRadianceSphericalHarmonicsCoefficientsAttr,
    )  # fmt: skip
    means, scales, turns, opacities, sh = (get().Get(frame) for get in getters)
    quaternions = [[turn.GetReal(), *turn.GetImaginary()] for turn in turns]
    values = (means, scales, quaternions, opacities, 0.5 + SH_C0 * np.asarray(sh))
    return Splats(*(np.ascontiguousarray(v, np.float32) for v in values)), "OpenUSD"


def _npz(path: Path, own: Splats, frame: int) -> Read:
    names = ("means", "scales", "quaternions", "opacities", "rgb")
    with np.load(path) as file:
        return Splats(*(file[f"posed_{name}"][frame] for name in names)), "NumPy"


READERS: dict[str, Callable[[Path, Splats, int], Read]] = {
    "ply": _ply, "ply_compressed": _converted, "splat": _converted, "spz": _converted,
    "spz4": _converted, "sog": _converted, "splattie": _splattie, "lam": _lam, "usd": _usd,
    "npz": _npz,
}  # fmt: skip
"""Readers of each format; formats without one are animated by the rig."""
