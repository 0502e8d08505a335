"""Exporting a run: files look like the avatar's own render; bad options are refused."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from persona.commands.animation import frame_motion
from persona.commands.avatar_export import AvatarExport, Settings
from persona.commands.export import export
from persona.commands.export_loss import draw_mesh, draw_rig, in_view, over_white
from persona.data.motion.load import load_motion
from persona.errors import UserError
from persona.modules.avatar.bake import bake_mesh
from persona.modules.avatar.pose_table import matrix_pose
from persona.types import Channel, Gaussians

CONF = Path(__file__).parents[2] / "conf"
DOWN = np.float32([1, -1, -1])


@pytest.fixture
def write(seen_system, tmp_path, monkeypatch):
    """Exports the avatar as if it had been loaded from a run folder."""
    monkeypatch.setattr("persona.commands.export.load_system", lambda folder, device: seen_system)
    monkeypatch.setattr("persona.commands.export.load_config", lambda folder: {"name": "tiny"})

    def written(*overrides: str) -> list[Path]:
        names = ["run=here", "motion=squat", "num_frames=6", "texture_px=64", *overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return export(compose("export", overrides=names), tmp_path)

    return written


def psnr(first, second):
    return float(-10 * (first - second).square().mean().log10())


@torch.no_grad()
def drawn_and_own(seen_system, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Renders of frame 4, first from a .ply as plyfile reads it, then by the avatar itself."""
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    vertex = plyfile.PlyData.read(path)["vertex"]
    column = {p.name: torch.from_numpy(np.array(vertex[p.name])) for p in vertex.properties}

    def columns(*names):
        return torch.stack([column[name] for name in names], 1)

    motion = load_motion("squat", seen_system.body, fps=30)
    poses, camera = frame_motion(seen_system, motion.pose[4:5], 96, 72)
    own = over_white(*seen_system.render(matrix_pose(seen_system.body, poses)[0], camera))
    assert own.min() < 0.5, "the render shows nobody"
    rest = seen_system.body.shape(seen_system.identity)[1][0]
    at_origin = motion.pose.trans[4] + rest  # The root's place in the world.
    shift = poses.trans[0] + rest - at_origin * torch.from_numpy(DOWN)
    points = Gaussians(
        columns("x", "y", "z") + shift,
        columns("scale_0", "scale_1", "scale_2").exp(),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        column["opacity"].sigmoid(),
    )
    rgb = columns("f_dc_0", "f_dc_1", "f_dc_2") * 0.28209479177387814 + 0.5
    render = seen_system.renderer(points, camera, {"rgb": Channel(rgb)})
    return over_white(render.images["rgb"], render.alpha), own


def test_a_ply_looks_as_the_avatar_does(write, seen_system):
    """Read by plyfile and drawn, it equals the avatar's render in the same pose to 50 dB."""
    (path,) = write("frame=4")
    assert path.name == "tiny.ply"
    assert psnr(*drawn_and_own(seen_system, path)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spz", "spz4", "sog", "ply_compressed", "splat"])
def test_small_files_look_as_the_avatar_does(write, seen_system, tmp_path, kind):
    """Read by PlayCanvas's splat-transform and drawn; 35 dB, as these formats are lossy."""
    program = shutil.which("splat-transform")
    if program is None:
        pytest.skip("needs npm install --global @playcanvas/splat-transform")
    (path,) = write("frame=4", f"format={kind}")
    command = [program, str(path), str(tmp_path / "read.ply")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = psnr(*drawn_and_own(seen_system, tmp_path / "read.ply"))
    print(f"{kind}: {path.stat().st_size} bytes, {found:.1f} dB")
    assert found > 35


def test_a_sequence_is_a_file_a_frame_and_a_rig_one_file(write, capsys):
    names = [path.name for path in write("format=[spz,glb]", "frame=all", "num_frames=3")]
    splats = [f"tiny_{i:05d}.spz" for i in range(3)]
    assert names == [*splats, "tiny.splats.glb"]
    told = capsys.readouterr().out
    assert "3 of 3 frames of squat, PSNR" in told
    assert "offsets left out, 4 bones: " in told and "textured mesh: " in told


def test_without_a_motion_the_avatar_rests(write):
    (path,) = write("motion=null", "format=npz", "losses=false", "influences=8")
    with np.load(path) as file:
        assert file["posed_means"].shape[0] == 1
        joints = file["joints"]
        assert file["skin_weights"].shape[1] == 8
        assert not file["clip_trans"].any() and (file["clip_rotations"][0, :22, 0] == 1).all()
        # In the T-pose the wrists are about as high as the shoulders.
        assert abs(joints[20, 1] - joints[16, 1]) < 0.1
        # The posed Gaussians surround the joints of the rest pose.
        assert abs(file["posed_means"][0].mean(0) - joints[:22].mean(0)).max() < 0.25


@torch.no_grad()
def test_the_mesh_shows_the_person(seen_system):
    """Drawn as a textured mesh, it looks like its Gaussians to 20 dB; white alone is below 15."""
    exporter = AvatarExport(seen_system, load_motion("squat", seen_system.body)[:1], Settings())
    rig = exporter.rig(0)
    mesh = bake_mesh(rig, 128)
    pose, camera = in_view(seen_system, exporter.placed(0))
    mesh_image, splats = (draw_mesh(seen_system, rig, mesh, pose, camera),
                          draw_rig(seen_system, rig, pose, camera))  # fmt: skip
    assert psnr(mesh_image, splats) > 20
    assert psnr(torch.ones_like(splats), splats) < 15
    corners = mesh.source[mesh.faces]
    assert (corners == rig.surface.faces).all(), (
        "the mesh split at seams has other triangles than the surface"
    )


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["format=obj"], r"format=obj is unknown: choose of ply \(Gaussians of one pose\)"),
        (["format=[]"], r"format=\[\] writes nothing"),
        (["offsets=some"], "offsets=some is unknown: choose none, baked"),
        (["frame=6"], "frame=6: the motion has 6; count from 0"),
        (["influences=0"], "influences"),
        (["motion=absent.bvh"], "absent.bvh: no such motion"),
        (["asset=other"], "asset=other is unknown"),
    ],
)
def test_bad_options(write, tmp_path, overrides, told):
    with pytest.raises(UserError, match=told):
        write(*overrides)
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".ply", ".glb")]
