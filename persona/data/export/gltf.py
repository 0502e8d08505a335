"""A binary glTF 2.0 file in the making: accessors, skeleton, animation.

glTF's JSON is written as the dictionaries that it is; the tests read files back by pygltflib.
Source: Khronos, glTF 2.0 specification; its numbers are given names below.
"""

import json
import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Shaped
from numpy import ndarray

from persona.data.export.scene import Clip, RiggedSplats, Skin, xyzw

TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
VERTICES, INDICES = 34962, 34963
"""Targets of buffer views."""
POINTS, TRIANGLES = 0, 4
"""Modes of primitives."""


class Glb:
    """Collects what a file holds."""

    def __init__(self) -> None:
        self.json: dict[str, list] = {"accessors": [], "bufferViews": [], "nodes": []}
        self.data = bytearray()

    def view(self, data: bytes, target: int | None = None) -> int:
        """Adds bytes."""
        self.data += b"\0" * (-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.json["bufferViews"].append(view | ({"target": target} if target else {}))
        self.data += data
        return len(self.json["bufferViews"]) - 1

    def accessor(
        self, array: Shaped[ndarray, "..."], target: int | None = None, bounds: bool = False
    ) -> int:
        """Adds an array of scalars, vectors or (row-major) matrices, one a row."""
        rows = array.mT if array.ndim == 3 else array  # Matrices lie in columns.
        described = self._described(rows.reshape(len(array), -1), bounds)
        described["bufferView"] = self.view(np.ascontiguousarray(rows).tobytes(), target)
        return self._added(described)

    def sparse(self, array: Float32[ndarray, "n 3"]) -> int:
        """Adds vectors that are mostly zero, with their bounds."""
        rows = np.flatnonzero(array.any(1))
        rows = rows if len(rows) else np.zeros(1, int)  # glTF wants one at least.
        indices = self.view(rows.astype(np.uint32).tobytes())
        values = self.view(array[rows].tobytes())
        return self._added(
            self._described(array, True)
            | {
                "sparse": {
                    "count": len(rows),
                    "indices": {"bufferView": indices, "componentType": COMPONENTS["uint32"]},
                    "values": {"bufferView": values},
                }
            }
        )

    def _described(self, rows: Shaped[ndarray, "n c"], bounds: bool) -> dict:
        ends = {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()} if bounds else {}
        component = COMPONENTS[str(rows.dtype)]
        return {"componentType": component, "count": len(rows), "type": TYPES[rows.shape[1]]} | ends

    def _added(self, accessor: dict) -> int:
        self.json["accessors"].append(accessor)
        return len(self.json["accessors"]) - 1

    def skin_attributes(self, skin: Skin) -> dict[str, int]:
        """JOINTS_0, WEIGHTS_0 and so on: four bones in each set."""
        attributes = {}
        missing = -skin.bones.shape[1] % 4
        weights = np.pad(skin.weights, ((0, 0), (0, missing))).astype(np.float32)
        # A bone of no weight must be the first.
        bones = np.where(weights > 0, np.pad(skin.bones, ((0, 0), (0, missing))), 0)
        for start in range(0, weights.shape[1], 4):
            part, number = slice(start, start + 4), start // 4
            joints = self.accessor(bones[:, part].astype(np.uint16), VERTICES)
            attributes[f"JOINTS_{number}"] = joints
            attributes[f"WEIGHTS_{number}"] = self.accessor(weights[:, part], VERTICES)
        return attributes

    def skeleton(self, rig: RiggedSplats, clip: Clip, frame: int) -> None:
        """Adds the joints as the first nodes, in a frame's pose, and the skin 0."""
        turns = xyzw(clip.rotations[frame])
        for name, offset, turn in zip(rig.joint_names, rig.offsets, turns, strict=True):
            node = {"name": name, "translation": offset.tolist(), "rotation": turn.tolist()}
            self.json["nodes"].append(node)
        self.json["nodes"][0]["translation"] = (rig.joints[0] + clip.trans[frame]).tolist()
        for joint, parent in enumerate(rig.parents):
            if parent >= 0:
                self.json["nodes"][parent].setdefault("children", []).append(joint)
        binds = self.accessor(rig.inverse_binds)
        joints = list(range(len(rig.parents)))
        self.json["skins"] = [{"joints": joints, "inverseBindMatrices": binds, "skeleton": 0}]

    def finish(self, mesh: dict, rig: RiggedSplats, clip: Clip, frame: int) -> None:
        """Adds the mesh, skinned, with its expressions, and the animation."""
        weights = clip.expression[frame].tolist()
        names = {"targetNames": list(rig.expression_names)}
        self.json["meshes"] = [mesh | ({"weights": weights, "extras": names} if weights else {})]
        self.json["nodes"].append({"name": mesh["name"], "mesh": 0, "skin": 0})
        body = len(self.json["nodes"]) - 1
        self.json["scenes"] = [{"nodes": [0, body]}]
        if len(clip) > 1:
            self._animate(rig, clip, body)

    def _animate(self, rig: RiggedSplats, clip: Clip, body: int) -> None:
        """Adds the clip; joints that never turn are left out."""
        times = self.accessor(np.arange(len(clip), dtype=np.float32) / np.float32(clip.fps),
                              bounds=True)  # fmt: skip
        moved = {(0, "translation"): rig.joints[0] + clip.trans}
        still = np.array([1, 0, 0, 0], np.float32)
        for joint in range(len(rig.parents)):
            if not np.allclose(clip.rotations[:, joint], still, atol=1e-7):
                moved[joint, "rotation"] = xyzw(clip.rotations[:, joint])
        if clip.expression.any():
            moved[body, "weights"] = clip.expression.reshape(-1)
        samplers: list[dict] = []
        channels: list[dict] = []
        for (node, path), values in moved.items():
            channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
            samplers.append({"input": times, "output": self.accessor(values)})
        animation = {"name": clip.name, "samplers": samplers, "channels": channels}
        self.json["animations"] = [animation]

    def content(self, extensions: Sequence[str] = ()) -> bytes:
        """The container: a header, the JSON, the data."""
        self.data += b"\0" * (-len(self.data) % 4)
        whole = self.json | {
            "asset": {"version": "2.0", "generator": "persona"},
            "scene": 0,
            "buffers": [{"byteLength": len(self.data)}],
            **({"extensionsUsed": list(extensions)} if extensions else {}),
        }
        text = json.dumps(whole, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self.data)
        head = struct.pack("<4sIII4s", b"glTF", 2, size, len(text), b"JSON")
        return head + text + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
