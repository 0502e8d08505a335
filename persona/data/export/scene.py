"""The input of exporters: an avatar in single poses, and its rig with a motion, as arrays.

Everything is in one world: metres, y up, a person at rest faces +z and has the left at +x. A writer
whose format has other axes turns it itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray

SH_C0 = 0.5 / np.pi**0.5
"""The spherical harmonic of degree 0: a colour is 0.5 + SH_C0 times its coefficient."""
OPACITY_EPS = 1e-6
"""How far opacities are kept from 0 and 1 before a logit."""


@dataclass(frozen=True)
class Splats:
    """3D Gaussians."""

    means: Float32[ndarray, "n 3"]
    """Metres."""
    scales: Float32[ndarray, "n 3"]
    """Standard deviations, metres."""
    quaternions: Float32[ndarray, "n 4"]
    """Unit, (w, x, y, z)."""
    opacities: Float32[ndarray, "n"]
    """[0, 1]."""
    rgb: Float32[ndarray, "n 3"]
    """As displayed (sRGB), [0, 1]."""

    @property
    def sh_dc(self) -> Float32[ndarray, "n 3"]:
        """Colours as coefficients of the spherical harmonic of degree 0."""
        return ((self.rgb - 0.5) / SH_C0).astype(np.float32)

    @property
    def opacity_logit(self) -> Float32[ndarray, "n"]:
        """Before the sigmoid."""
        kept = self.opacities.astype(np.float64).clip(OPACITY_EPS, 1 - OPACITY_EPS)
        return np.log(kept / (1 - kept)).astype(np.float32)

    def turned_about_x(self) -> Splats:
        """In the axes of OpenCV and of 3D Gaussian splatting's files: y down, z away."""
        w, x, y, z = self.quaternions.T
        means = self.means * np.array([1, -1, -1], np.float32)
        return replace(self, means=means, quaternions=np.stack([-x, w, -z, y], 1))


@dataclass(frozen=True)
class Clip:
    """A motion of the rig's joints."""

    rotations: Float32[ndarray, "t j 4"]
    """Rotation of each joint against its parent, unit (w, x, y, z); identity in the rest pose."""
    trans: Float32[ndarray, "t 3"]
    """What is added to the root's rest position, metres."""
    expression: Float32[ndarray, "t e"]
    fps: float
    name: str

    def __len__(self) -> int:
        return len(self.trans)


@dataclass(frozen=True)
class Skin:
    """Bones of each point, the strongest first; weights add to one."""

    bones: Int[ndarray, "n k"]
    weights: Float32[ndarray, "n k"]


@dataclass(frozen=True)
class Lighting:
    """Light on Gaussians, fixed to the world."""

    normals: Float32[ndarray, "n 3"]
    """Of the surface in the bind pose, unit."""
    harmonics: Float32[ndarray, "9"]
    """What a normal (x, y, z) takes of 1, x, y, z, x y, y z, 3 z^2 - 1, x z and x^2 - y^2: linear
    light; colours are under the first."""


@dataclass(frozen=True)
class RiggedSplats:
    """Gaussians in the bind pose, and their skeleton, skinning and expressions."""

    splats: Splats
    skin: Skin
    expression_dirs: Float32[ndarray, "e n 3"]
    """What each expression adds in the bind pose, metres."""
    expression_names: tuple[str, ...]
    """ARKit's, where the body has them."""
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    """-1 for the root; parents come before their children."""
    joints: Float32[ndarray, "j 3"]
    """In the rest pose, metres."""
    bind_from_rest: Float32[ndarray, "j 4 4"]
    """Transform of each joint from the rest pose to the bind pose."""
    lighting: Lighting | None = None
    """None for colours that are the same in every pose."""

    @property
    def inverse_binds(self) -> Float32[ndarray, "j 4 4"]:
        """The bind pose's world to each joint's own frame."""
        at_joint = np.tile(np.eye(4), (len(self.joints), 1, 1))
        at_joint[:, :3, 3] = self.joints
        return np.linalg.inv(self.bind_from_rest @ at_joint).astype(np.float32)

    @property
    def offsets(self) -> Float32[ndarray, "j 3"]:
        """Offset of each joint from its parent in the rest pose; the root's from the origin."""
        above = [self.joints[p] if p >= 0 else np.zeros(3, np.float32) for p in self.parents]
        return self.joints - np.stack(above)


@dataclass(frozen=True)
class RiggedMesh:
    """A textured surface that moves as the Gaussians do."""

    rig: RiggedSplats
    """Its Gaussians are the surface's vertices, before they are split along the charts' seams."""
    vertices: Float32[ndarray, "v 3"]
    """In the bind pose, one for each pair of a Gaussian and a texture coordinate."""
    normals: Float32[ndarray, "v 3"]
    uv: Float32[ndarray, "v 2"]
    """In [0, 1], v up."""
    source: Int[ndarray, "v"]
    """The Gaussian of each vertex."""
    faces: Int[ndarray, "f 3"]
    """Counter-clockwise seen from outside."""
    texture: UInt8[ndarray, "h w 3"]
    """Row 0 is v = 1."""


@dataclass(frozen=True)
class Scene:
    """An avatar and a motion; writers use what their format can hold. Parts are made on demand.

    Attributes:
        name: Name of the avatar.
        frame: Frame of the clip, for formats that hold one pose.
        clip: At least one frame.
        posed: The avatar in a frame of the clip, with all that depends on the pose.
        rigged: Gaussians and skeleton.
        meshed: Textured mesh and skeleton.
    """

    name: str
    frame: int
    clip: Clip
    posed: Callable[[int], Splats]
    rigged: Callable[[], RiggedSplats]
    meshed: Callable[[], RiggedMesh]


def xyzw(quaternions: Float[ndarray, "*b 4"]) -> Float32[ndarray, "*b 4"]:
    """(w, x, y, z) in the order that glTF and SPZ want."""
    return np.ascontiguousarray(np.roll(quaternions, -1, axis=-1), np.float32)
