"""PLY, SPZ and npz read back: by plyfile, by a reader of the format's description, by NumPy."""

import gzip
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from splat_scene import COUNT, FRAMES, random_scene, random_splats

from persona.data.export.npz import write_npz
from persona.data.export.ply import write_ply
from persona.data.export.scene import Scene, Splats
from persona.data.export.spz import write_spz
from persona.errors import UserError

C0 = 0.28209479177387814


def same_turns(found, expected, tolerance):
    """Rotations given as (w, x, y, z)."""
    a, b = (Rotation.from_quat(q, scalar_first=True) for q in (found, expected))
    assert (a.inv() * b).magnitude().max() < tolerance


def test_ply_has_the_conventions_of_gaussian_splatting(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    write_ply(random_scene(frame=2), tmp_path / "a.ply")
    file = plyfile.PlyData.read(tmp_path / "a.ply")
    (vertex,) = file.elements
    names = [p.name for p in vertex.properties]
    assert names == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
        *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert any("antialiased" in comment for comment in file.comments)
    table = np.stack([vertex[name] for name in names], 1).astype(np.float64)
    own = random_splats(2)
    np.testing.assert_allclose(table[:, :3], own.means * [1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(table[:, 6:9] * C0 + 0.5, own.rgb, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-table[:, 9])), own.opacities, atol=1e-5)
    np.testing.assert_allclose(np.exp(table[:, 10:13]), own.scales, rtol=1e-5)
    upside = Rotation.from_euler("x", 180, degrees=True)
    turned = upside * Rotation.from_quat(own.quaternions, scalar_first=True)
    same_turns(table[:, 13:], turned.as_quat(scalar_first=True), 1e-5)


def read_spz(path):
    """A reader after the description of version 3, one Gaussian after the other."""
    data = gzip.decompress(path.read_bytes())
    magic, version, count, degree, bits, flags, reserved = struct.unpack("<4sIIBBBB", data[:16])
    assert (magic, version, degree, flags, reserved) == (b"NGSP", 3, 0, 1, 0)
    assert len(data) == 16 + count * (9 + 1 + 3 + 3 + 4)
    found = {name: [] for name in ("means", "opacities", "rgb", "scales", "quaternions")}
    at = 16
    for _ in range(3 * count):
        number = int.from_bytes(data[at : at + 3], "little", signed=True)
        found["means"].append(number / 2**bits)
        at += 3
    found["opacities"] = [b / 255 for b in data[at : at + count]]
    at += count
    found["rgb"] = [(b / 255 - 0.5) / 0.15 * C0 + 0.5 for b in data[at : at + 3 * count]]
    at += 3 * count
    found["scales"] = [np.exp(b / 16 - 10) for b in data[at : at + 3 * count]]
    at += 3 * count
    for (packed,) in struct.iter_unpack("<I", data[at:]):
        left, xyzw = packed, [0.0] * 4
        largest = packed >> 30
        for component in (3, 2, 1, 0):
            if component != largest:
                size = (left & 511) / 511 * 0.5**0.5
                xyzw[component] = -size if left & 512 else size
                left >>= 10
        xyzw[largest] = (1 - sum(v * v for v in xyzw)) ** 0.5
        found["quaternions"].append([xyzw[3], *xyzw[:3]])
    wide = ("means", "rgb", "scales")
    return {k: np.reshape(v, (count, 3)) if k in wide else np.array(v) for k, v in found.items()}


def test_spz_keeps_what_its_bits_can_hold(tmp_path):
    write_spz(random_scene(frame=2), tmp_path / "a.spz")
    found, own = read_spz(tmp_path / "a.spz"), random_splats(2)
    np.testing.assert_allclose(found["means"], own.means, atol=0.5 / 4096 + 1e-7)
    np.testing.assert_allclose(found["opacities"], own.opacities, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found["rgb"], own.rgb, atol=0.5 / 255 / 0.15 * C0 + 1e-6)
    np.testing.assert_allclose(np.log(found["scales"]), np.log(own.scales), atol=0.5 / 16 + 1e-6)
    same_turns(found["quaternions"], own.quaternions, 0.006)


def test_spz_says_where_it_ends(tmp_path):
    far = random_splats(0).means * 3000
    scene = random_scene()
    moved = lambda frame: Splats(far, *list(vars(random_splats(0)).values())[1:])  # noqa: E731
    with pytest.raises(UserError, match=r"a\.spz: SPZ ends 2048 m from the origin"):
        write_spz(Scene(**(vars(scene) | {"posed": moved})), tmp_path / "a.spz")
    assert not list(tmp_path.iterdir())


def test_usd_has_the_avatar_in_every_frame(tmp_path):
    pytest.importorskip("pxr", reason="needs persona[export]")
    from pxr import Usd, UsdGeom

    from persona.data.export.usd import write_usd

    write_usd(random_scene(), tmp_path / "a.usdc")
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and stage.GetTimeCodesPerSecond() == 10
    (prim,) = [p for p in stage.Traverse() if p.GetTypeName() == "ParticleField3DGaussianSplat"]

    def array(name, frame):
        return prim.GetAttribute(name).Get(frame)

    for frame in range(FRAMES):
        own = random_splats(frame)
        np.testing.assert_array_equal(np.array(array("positions", frame)), own.means)
        np.testing.assert_array_equal(np.array(array("scales", frame)), own.scales)
        np.testing.assert_array_equal(np.array(array("opacities", frame)), own.opacities)
        color = np.array(array("radiance:sphericalHarmonicsCoefficients", frame)) * C0 + 0.5
        np.testing.assert_allclose(color, own.rgb, atol=1e-6)
        turns = [[q.GetReal(), *q.GetImaginary()] for q in array("orientations", frame)]
        same_turns(turns, own.quaternions, 1e-5)
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 0


def test_npz_holds_the_rig_the_motion_and_every_frame(tmp_path):
    scene = random_scene()
    write_npz(scene, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["posed_means"].shape == (FRAMES, COUNT, 3)
        np.testing.assert_array_equal(file["posed_rgb"][2], random_splats(2).rgb)
        np.testing.assert_array_equal(file["bind_means"], scene.rigged().splats.means)
        assert file["joint_names"].tolist() == ["pelvis", "spine1", "left_hip"]
        assert file["expression_names"].tolist() == ["jawOpen", "eyeBlinkLeft"]
        assert file["clip_fps"] == 10 and file["clip_rotations"].shape == (FRAMES, 3, 4)
        documented = write_npz.__doc__
        for name in file.files:
            assert f"``{name}``" in documented or name.startswith(("bind_", "posed_")), name
