"""OpenUSD's Gaussian splats, with the avatar itself in every frame of the motion."""

from pathlib import Path

import numpy as np

from persona.data.export.extras import extra
from persona.data.export.scene import Scene
from persona.data.io import atomic_path

ROOT, SPLATS = "/avatar", "/avatar/splats"


def write_usd(scene: Scene, path: Path) -> None:
    """Writes a ``ParticleField3DGaussianSplat`` (OpenUSD 26) whose time samples are the frames.

    Sizes, opacities and colours that no frame changes are written once. Metres, y up, facing +z;
    spherical harmonics of degree 0.
    """
    usd, geom, vol, vt = (extra(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdVol", "Vt"))
    stage = usd.Stage.CreateInMemory()
    geom.SetStageUpAxis(stage, geom.Tokens.y)
    geom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(scene.clip.fps)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(len(scene.clip) - 1)
    stage.SetDefaultPrim(geom.Xform.Define(stage, ROOT).GetPrim())
    prim = vol.ParticleField3DGaussianSplat.Define(stage, SPLATS)
    prim.CreateRadianceSphericalHarmonicsDegreeAttr(0)
    attributes = {
        "means": prim.CreatePositionsAttr(),
        "scales": prim.CreateScalesAttr(),
        "quaternions": prim.CreateOrientationsAttr(),
        "opacities": prim.CreateOpacitiesAttr(),
        "sh_dc": prim.CreateRadianceSphericalHarmonicsCoefficientsAttr(),
    }
    before: dict[str, np.ndarray] = {}
    for frame in range(len(scene.clip)):
        splats = scene.posed(frame)
        for name, attribute in attributes.items():
            values = np.ascontiguousarray(getattr(splats, name))
            if frame and np.array_equal(values, before[name]):
                continue
            if frame and not attribute.GetNumTimeSamples() > 1:
                # Repeat the last value before a change, or readers would interpolate from the first
                # frame on.
                attribute.Set(_array(vt, name, before[name]), frame - 1)
            attribute.Set(_array(vt, name, values), frame)
            before[name] = values
        low, high = splats.means.min(0), splats.means.max(0)
        reach = 3 * splats.scales.max()
        prim.CreateExtentAttr().Set(vt.Vec3fArray.FromNumpy(np.stack([low - reach, high + reach])),
                                    frame)  # fmt: skip
    with atomic_path(path) as temporary:
        stage.Export(str(temporary))


def _array(vt, name: str, values: np.ndarray):
    """As OpenUSD's arrays; its quaternions have the real part last in memory."""
    if name == "quaternions":
        return vt.QuatfArray.FromNumpy(np.ascontiguousarray(np.roll(values, -1, axis=1)))
    if values.ndim == 1:
        return vt.FloatArray.FromNumpy(values)
    return vt.Vec3fArray.FromNumpy(values)
