"""Every export format of one avatar: how large it is, and what it shows when others read it."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from persona.commands.avatar_export import AvatarExport
from persona.commands.export import check_export, exporter_of, losses_of_rigs
from persona.commands.export_loss import SIZE, over_white
from persona.data.export.extras import extra
from persona.data.export.formats import FORMATS
from persona.data.export.scene import SH_C0, Splats
from persona.data.io import write_text
from persona.data.motion.camera import fit_camera
from persona.errors import UserError
from persona.types import Channel, Gaussians

log = logging.getLogger(__name__)
_NAME = "avatar"


def run_export_benchmark(config: DictConfig, folder: Path) -> Path:
    """Writes the files and ``report.md``. Returns the report's path.

    Raises:
        UserError: a bad option, or a run that cannot be exported.
    """
    formats = check_export(config)
    exporter = exporter_of(config)
    scene = exporter.scene(_NAME, config.frame)
    own = scene.posed(config.frame)
    rigs = losses_of_rigs(exporter, config.frame) if config.losses else {}
    rows = []
    for kind in formats:
        path = folder / f"{_NAME}{FORMATS[kind].suffix}"
        FORMATS[kind].write(scene, path)
        log.info("%s: %d bytes", path.name, path.stat().st_size)
        shown, reader = shows(exporter, kind, path, own)
        if FORMATS[kind].rigged and kind != "npz":
            shown, reader = rig_loss(kind, rigs), "the rig, drawn here over the motion"
        rows.append((kind, path.stat().st_size / 1e6, shown, reader))
    write_text(folder / "report.md", report(exporter, rows))
    return folder / "report.md"


def report(exporter: AvatarExport, rows: list[tuple[str, float, float | None, str]]) -> str:
    """The table."""
    count = len(exporter.posed(0).means)
    lines = [
        f"{count} Gaussians; {len(exporter.motion)} frames of {exporter.motion.source}.", "",
        "| format | MB | against the avatar's own render, dB | read by |", "|---|---|---|---|",
    ]  # fmt: skip
    for kind, size, shown, reader in rows:
        value = "" if shown is None else "equal" if shown > 90 else f"{shown:.1f}"
        lines.append(f"| `{kind}` | {size:.1f} | {value} | {reader} |")
    return "\n".join(lines) + "\n"


def rig_loss(kind: str, rigs: Mapping[str, float]) -> float | None:
    """Of a format that moves by the rig, from the losses of all rigs."""
    names = [name for name in rigs if (name == "textured mesh") == (kind == "mesh")]
    return rigs[names[min(1, len(names) - 1)]] if names else None


def shows(exporter: AvatarExport, kind: str, path: Path, own: Splats) -> tuple[float | None, str]:
    """PSNR of the pose that a file holds, and who read it; None where nobody here can."""
    if kind not in READERS:
        return None, "nobody here"
    try:
        read, reader = READERS[kind](path, own)
    except UserError as error:
        return None, str(error)
    difference = (_drawn(exporter, read, own) - _drawn(exporter, own, own)).square().mean()
    return float(-10 * difference.clamp(min=1e-12).log10()), reader


@torch.no_grad()
def _drawn(exporter: AvatarExport, splats: Splats, seen: Splats) -> Float[Tensor, "3 h w"]:
    """Drawn by the avatar's renderer, in a camera that sees all of ``seen``."""
    camera, shift = fit_camera(torch.from_numpy(seen.turned_about_x().means), *SIZE)
    turned = splats.turned_about_x()
    points = Gaussians(
        torch.from_numpy(turned.means) + shift, torch.from_numpy(turned.scales),
        torch.from_numpy(turned.quaternions), torch.from_numpy(turned.opacities),
    )  # fmt: skip
    shown = {"rgb": Channel(torch.from_numpy(turned.rgb))}
    render = exporter.system.renderer(points, camera, shown)
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


def _ply(path: Path, own: Splats) -> Read:
    return _from_ply(path).turned_about_x(), "plyfile"


def _converted(path: Path, own: Splats) -> Read:
    """What PlayCanvas's program makes of a file.

    Raises:
        UserError: it is not there, or refuses.
    """
    program = shutil.which("splat-transform")
    if program is None:
        raise UserError("nobody: npm install --global @playcanvas/splat-transform")
    target = path.with_name("read.ply")
    command = [program, "-w", str(path), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode or not target.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"nobody: splat-transform refuses it ({said[0] if said else 'silently'})")
    read = _from_ply(target).turned_about_x()
    target.unlink()
    return read, "splat-transform, plyfile"


def _splattie(path: Path, own: Splats) -> Read:
    with zipfile.ZipFile(path) as archive:
        read = _from_ply(io.BytesIO(archive.read("avatar.ply")))
    # The widget's camera looks at the origin.
    middle = (own.means.min(0) + own.means.max(0)) / 2
    return replace(read, means=read.means + middle), "zipfile, plyfile"


def _lam(path: Path, own: Splats) -> Read:
    with zipfile.ZipFile(path) as archive:
        read = _from_ply(io.BytesIO(archive.read(f"{_NAME}/offset.ply")))
        skin = archive.read(f"{_NAME}/skin.glb")
    file = extra("pygltflib").GLTF2().load_from_bytes(skin)
    accessor = file.accessors[file.meshes[0].primitives[0].attributes.POSITION]
    start = file.bufferViews[accessor.bufferView].byteOffset
    vertices = np.frombuffer(file.binary_blob(), "<f4", 3 * accessor.count, start).reshape(-1, 3)
    means = vertices + read.means
    # Places are moved so that the eyes are where the page looks.
    means = means + (own.means.mean(0) - means.mean(0))
    rgb = ((read.rgb - 0.5) / SH_C0).astype(np.float32)
    return replace(read, means=means, rgb=rgb), "zipfile, pygltflib, plyfile"


def _usd(path: Path, own: Splats) -> Read:
    usd, vol = extra("pxr.Usd"), extra("pxr.UsdVol")
    stage = usd.Stage.Open(str(path))
    prim = vol.ParticleField3DGaussianSplat(stage.GetPrimAtPath("/avatar/splats"))
    getters = (
        prim.GetPositionsAttr, prim.GetScalesAttr, prim.GetOrientationsAttr, prim.GetOpacitiesAttr,
        prim.GetRadianceSphericalHarmonicsCoefficientsAttr,
    )  # fmt: skip
    # The pose nearest to the one that is compared is told by its points.
    frames = range(int(stage.GetEndTimeCode()) + 1)
    places = [np.asarray(getters[0]().Get(frame), np.float32) for frame in frames]
    frame = int(np.argmin([np.abs(place - own.means).max() for place in places]))
    means, scales, turns, opacities, sh = (get().Get(frame) for get in getters)
    quaternions = [[turn.GetReal(), *turn.GetImaginary()] for turn in turns]
    values = (means, scales, quaternions, opacities, 0.5 + SH_C0 * np.asarray(sh))
    return Splats(*(np.ascontiguousarray(v, np.float32) for v in values)), "OpenUSD"


def _npz(path: Path, own: Splats) -> Read:
    names = ("means", "scales", "quaternions", "opacities", "rgb")
    with np.load(path) as file:
        frames = file["posed_means"]
        frame = int(np.argmin(np.abs(frames - own.means).max((1, 2))))
        return Splats(*(file[f"posed_{name}"][frame] for name in names)), "NumPy"


READERS: dict[str, Callable[[Path, Splats], Read]] = {
    "ply": _ply, "ply_compressed": _converted, "splat": _converted, "spz": _converted,
    "spz4": _converted, "sog": _converted, "splattie": _splattie, "lam": _lam, "usd": _usd,
    "npz": _npz,
}  # fmt: skip
"""Who reads a format back; others move by the rig."""
