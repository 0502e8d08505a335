"""Writing a subject folder in PERSONA's layout."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from persona.data.compact import write_classes, write_map
from persona.data.io import PathLike, write_bytes, write_json, write_png, write_text
from persona.data.layout import (
    CAPTURED,
    CROP_FILE,
    IDENTITY_FILES,
    IMAGE_SIZE_FILE,
    ORIGINAL_FILE,
    SPLITS,
    SUBJECT_FILE,
    TEXTURE_FILES,
    UNFINISHED_FILE,
    FrameData,
    SubjectInfo,
    Textures,
    frame_path,
)
from persona.data.making import final_place
from persona.data.palette import PALETTE, classes_from_colours
from persona.data.parameters import write_camera, write_pose
from persona.types import BodyIdentity, BodyPose, Camera


class SubjectWriter:
    """Writes a subject folder file by file, each atomically; ``finish`` marks it complete."""

    def __init__(self, root: PathLike, fresh: bool = False, form: str = "compact"):
        """Opens a folder.

        Args:
            root: The subject folder, made when absent.
            fresh: Removes the splits of an earlier subject first.
            form: Form of the maps, ``compact`` or ``raw``: see ``persona.data.compact``.
        """
        self.root, self.form = Path(root), form
        write_text(self.root / UNFINISHED_FILE, "being made; without a running maker: make again\n")
        (self.root / SUBJECT_FILE).unlink(missing_ok=True)
        if fresh:
            for pattern in SPLITS:
                for folder in self.root.glob(pattern):
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def home(self) -> Path:
        """Where the folder will be at last; ``root`` may be of a ``whole_folder``."""
        return final_place(self.root)

    def path(self, split: str, kind: str, number: int) -> Path:
        """Path of one file of a frame; ``kind`` as in ``layout.FRAME_FILES``."""
        return frame_path(self.root, split, kind, number)

    def write_frame(self, split: str, number: int, frame: FrameData) -> None:
        """Writes everything of one frame.

        Raises:
            ValueError: the maps differ in size, or ``seg`` holds colours of no part.
        """
        size = frame.image.shape[:2]
        assumed = {
            "depth_mask": frame.mask,
            "normal_mask": frame.mask,
            "seg_mask": classes_from_colours(frame.seg) > 0,
        }
        maps = assumed | frame.maps
        for kind, array in maps.items():
            if array.shape[:2] != size:
                raise ValueError(f"{kind} is {array.shape[:2]}, the image {size}")
        if (frame.camera.height, frame.camera.width) != size:
            raise ValueError(f"the camera and the image {size} differ in size")
        for kind, array in maps.items():
            write_map(self.root / split, kind, number, array, self.form)
        write_classes(self.root / split, number, frame.seg, self.form)
        if frame.patch is not None and frame.patch_box_px is not None:
            write_png(self.path(split, "patch", number), frame.patch)
            write_json(self.path(split, "patch_box", number), frame.patch_box_px)
        if frame.keypoints is not None:
            write_json(self.path(split, "keypoints", number), frame.keypoints)
        self.write_pose(split, number, frame.pose)
        self.write_camera(split, number, frame.camera)

    def write_pose(self, split: str, number: int, pose: BodyPose) -> None:
        """Writes one frame's SMPL-X parameters alone."""
        write_pose(self.path(split, "pose", number), pose)

    def write_camera(self, split: str, number: int, camera: Camera) -> None:
        """Writes one frame's camera alone."""
        write_camera(self.path(split, "camera", number), camera)

    def write_surface_offset(
        self, split: str, number: int, vertices: Int[Tensor, "k"], offset: Float[Tensor, "k 3"]
    ) -> None:
        """Writes where simulated clothes hang: metres added to the rest pose, before skinning."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            vertices=vertices.numpy().astype(np.uint32),
            offset=offset.numpy().astype(np.float16),
        )
        write_bytes(self.path(split, "surface_offset", number), content.getvalue())

    def write_mesh(
        self,
        split: str,
        number: int,
        vertices: Float[Tensor, "p 3"],
        faces: Int[Tensor, "f 3"],
    ) -> None:
        """Writes a frame's posed mesh (camera coordinates, metres) as binary PLY."""
        header = (
            "ply\nformat binary_little_endian 1.0\n"
            f"element vertex {len(vertices)}\n"
            "property float x\nproperty float y\nproperty float z\n"
            f"element face {len(faces)}\n"
            "property list uchar int vertex_indices\nend_header\n"
        )
        rows = np.empty(len(faces), [("count", "u1"), ("index", "<i4", 3)])
        rows["count"], rows["index"] = 3, faces.cpu().numpy()
        points = vertices.detach().cpu().numpy().astype("<f4")
        content = header.encode() + points.tobytes() + rows.tobytes()
        write_bytes(self.path(split, "mesh", number), content)

    def write_identity(self, identity: BodyIdentity) -> None:
        """Writes the person's shape."""
        for key, file in IDENTITY_FILES.items():
            write_json(self.root / CAPTURED / file, getattr(identity, key))

    def write_textures(self, split: str, textures: Textures) -> None:
        """Writes the uv maps of a split; parts that no frame sees are black in smplx_seg.png."""
        maps = textures._asdict() | {
            "seg": textures.seg_inpaint * textures.mask[..., None],
            "seg_mask": textures.mask,
        }
        for key, file in TEXTURE_FILES.items():
            write_png(self.root / split / file, maps[key])

    def write_split(
        self, split: str, numbers: Sequence[int], original: Sequence[str] | None = None
    ) -> None:
        """Writes the files that a split has once.

        Args:
            split: Split name.
            numbers: Frames that training uses.
            original: A line per frame of where it came from (captured and test).
        """
        folder = self.root / split
        palette = {"name": list(PALETTE), "color": [list(c) for c in PALETTE.values()]}
        write_json(folder / "segs/palette.json", palette)
        write_text(folder / "frame_idx_list.txt", "".join(f"{n}\n" for n in numbers))
        if original is not None:
            write_text(folder / ORIGINAL_FILE, "".join(f"{line}\n" for line in original))

    def write_crop(
        self, split: str, number: int, box: tuple[int, int, int, int], size_px: tuple[int, int]
    ) -> None:
        """Records that a frame is the box (x, y, w, h) of an image of height x width ``size_px``.

        Such frames are read back onto that image: see ``persona.data.paste``.
        """
        write_json(self.root / split / CROP_FILE.format(number), box)
        write_json(self.root / split / IMAGE_SIZE_FILE, size_px)

    def finish(self, info: SubjectInfo) -> None:
        """Marks the folder complete; call it last."""
        write_json(self.root / SUBJECT_FILE, asdict(info), indent=2)
        (self.root / UNFINISHED_FILE).unlink(missing_ok=True)
