"""Generated clips of a fitted person, written as splits of its subject folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray

from persona.data.io import write_json, write_png
from persona.data.layout import FrameData, Textures
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.data.motion.load import load_motion
from persona.data.preprocess.annotate import (
    BodyView,
    annotate_frame,
    body_keypoints,
    frame_with,
    trusted,
)
from persona.data.preprocess.clip_store import ClipStore, Job, visible_gpus
from persona.data.preprocess.gate import Gate, KeepAll, dropped_sheet, summary
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Drape
from persona.modules.detect import Annotator
from persona.modules.diffusion.base import Controls, Reference, VideoGenerator
from persona.modules.nearest import nearest_marked
from persona.types import BodyPose, Camera

log = logging.getLogger(__name__)

MARGIN = 0.06
"""Empty border around the whole motion, as a share of the picture."""
DRIVING_FPS = 30.0
"""Rate of motions for generators that have no rate themselves."""
MOST_UNWRAPPED = 32
"""More frames than this are thinned out evenly for a clip's texture."""
OPAQUE = 127
"""Opacity of 255 above which a pixel of a frame that is cut out is the person's."""
Refit = Callable[[Controls, UInt8[ndarray, "n h w 3"]], BodyPose]
"""The poses that generated frames really show, given those that were asked for."""


@dataclass(frozen=True, kw_only=True)
class ClipMaker:
    """Writes one ``generated_k`` split per driving motion.

    Attributes:
        generator: Makes the frames.
        motions: Files or built-in names (``persona.data.motion``), in order of the splits.
        num_frames: Most frames a split.
        annotators: Look at the frames of a generator that is not ``aligned``: together they give
            ``alpha`` and ``parts``; depth and normals are the body's where they give none.
        refit: None takes the driving poses as they are.
        gate: Which frames of a generator that is not ``aligned`` are kept.
        seed: Seed of the first clip; the next has the next number.
    """

    generator: VideoGenerator
    motions: Sequence[str] = ("turntable", "dance")
    num_frames: int = 48
    annotators: Sequence[Annotator] = ()
    refit: Refit | None = None
    gate: Gate = field(default_factory=KeepAll)
    seed: int = 0

    @property
    def steps(self) -> int:
        """Most frames in all, for a progress bar."""
        return len(self.motions) * self.num_frames

    @property
    def looked_at(self) -> bool:
        """Whether annotators and the gate look at the frames: those of a video model."""
        return not (self.generator.aligned or self.generator.cut_out)

    def with_annotator(self, annotator: Annotator) -> ClipMaker:
        """Looks at the frames with ``annotator`` where no other is given."""
        return self if self.annotators else replace(self, annotators=(annotator,))

    def describe(self) -> tuple:
        """All that the clips depend on, as plain values."""
        kind, options = type(self.generator).__name__, sorted(vars(self.generator).items())
        annotators = [type(annotator).__name__ for annotator in self.annotators]
        gate = type(self.gate).__name__, sorted(vars(self.gate).items())
        return kind, options, tuple(self.motions), self.num_frames, annotators, gate, self.seed

    def check(self, body: SmplxBody, *, fitted: bool) -> None:
        """Looks at the generator and every driving motion, before the long work.

        Args:
            body: Body model of the driving motions.
            fitted: Whether the source tells the body that was fitted to the photograph.

        Raises:
            UserError: The generator lacks something, a motion is missing or damaged, the clips are
                too long, or nothing says mask and parts of the frames.
        """
        if not self.motions:
            return
        name, most = type(self.generator).__name__, self.generator.max_frames
        if self.generator.needs_fit and not fitted:
            raise UserError(
                f"{name} needs the body that was fitted to the photograph, which this source does "
                "not tell: use generator=textured_mesh"
            )
        self.generator.check()
        if most is not None and self.num_frames > most:
            raise UserError(f"num_frames={self.num_frames}: {name} makes at most {most} a clip")
        given = frozenset().union(*(annotator.provides for annotator in self.annotators))
        if self.looked_at and (missing := {"alpha", "parts"} - given):
            raise UserError(
                f"{name}: no annotator gives {' and '.join(sorted(missing))} of its frames; "
                "choose another annotator="
            )
        for motion in self.motions:
            load_motion(motion, body)

    def __call__(
        self,
        writer: SubjectWriter,
        person: TexturedPerson,
        reference: Reference,
        camera: Camera,
        advance: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """Makes and writes all splits.

        Args:
            writer: The subject's folder.
            person: As it was fitted, and what the photograph shows of it.
            reference: The photograph.
            camera: The captured frame's camera; its size and focal length are kept, the principal
                point is centred and the person is put where the whole motion is in view.
            advance: Called with the number of frames that are done.
        """
        textures = person.textures
        if self.generator.aligned:
            person = person.in_garment()
        store = ClipStore(writer.home)
        jobs: Iterable[Job] = (
            Job(
                self.generator,
                reference,
                self._controls(number, person, camera),
                self.seed + number,
            )
            for number in range(len(self.motions))
        )
        if self.looked_at and len(self.motions) > 1 and len(visible_gpus()) > 1:
            jobs = list(jobs)
            store.fill(jobs, visible_gpus())
        for number, job in enumerate(jobs):
            controls = job.controls
            frames = store.frames(job) if self.looked_at else job.frames()
            if self.refit is not None:
                controls = replace(controls, pose=self.refit(controls, frames))
            split = f"generated_{number}"
            kept = self._kept(writer, split, self.motions[number], person, controls, frames)
            self._write(writer, split, person, controls, frames, kept, textures)
            advance(len(frames))

    def _controls(self, number: int, person: TexturedPerson, camera: Camera) -> Controls:
        """The controls of a clip's generator, with which its frames are compared afterwards."""
        motion, seed = self.motions[number], self.seed + number
        poses, placed, drape = self._place(motion, person, camera, seed)
        wanted = self.generator.control_names | {"mask"}
        if self.looked_at:
            wanted |= self.gate.control_names
        return person.controls(poses, placed, wanted, drape)

    def _kept(
        self,
        writer: SubjectWriter,
        split: str,
        motion: str,
        person: TexturedPerson,
        controls: Controls,
        frames: UInt8[ndarray, "n h w c"],
    ) -> list[int]:
        """Numbers of the frames that pass the gate; the others are counted, named and shown."""
        if self.looked_at:
            reasons = self.gate(controls, frames, self._masks(person, controls, frames))
        elif controls.drape is not None:
            reasons = list(controls.drape.faults)
        else:
            return list(range(len(frames)))
        sheet = dropped_sheet(frames, reasons)
        if sheet is None:
            return list(range(len(frames)))
        folder, picture = writer.root / split, writer.home / split / "dropped.png"
        if all(reasons):  # The folder will not be.
            picture = writer.home.with_name(f"{writer.home.name}_{split}_dropped.png")
            write_png(picture, sheet)
        said = f"{motion}: {summary(reasons)} ({picture})"
        if all(reasons):
            keep = "generator=textured_mesh" if self.generator.aligned else "gate=none"
            raise UserError(f"{said}; {keep} keeps them, another clips.seed makes others")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "dropped.json", {str(i): r for i, r in enumerate(reasons) if r})
        write_png(folder / "dropped.png", sheet)
        log.warning("%s", said)
        return [i for i, reason in enumerate(reasons) if not reason]

    def _masks(
        self, person: TexturedPerson, controls: Controls, frames: UInt8[ndarray, "n h w c"]
    ) -> Iterator[Bool[ndarray, "h w"]]:
        """The person in each frame, as annotators see it."""
        for number, frame in enumerate(frames):
            view = _view(person, controls, number)
            yield self._frame(person, frame, controls.maps["mask"][number], view).mask

    def _place(
        self, motion: str, person: TexturedPerson, camera: Camera, seed: int
    ) -> tuple[BodyPose, Camera, Drape | None]:
        """The motion's poses in front of a camera that sees them all; how clothes hang in them."""
        body, identity = person.body, person.identity
        fps = self.generator.native_fps
        loaded = load_motion(motion, body, fps=fps or DRIVING_FPS, identity=identity)
        poses = loaded.pose
        count = min(self.num_frames, len(poses.trans))
        # A video model continues its frames; other ones are spread over the whole motion.
        last = len(poses.trans) - 1 if fps is None else count - 1
        rows = torch.linspace(0, last, count).round().long()
        drape = self.generator.drape(body, identity, poses, loaded.fps, rows, seed)
        poses = place_in_camera(poses[rows], body.shape(identity)[1][0])
        # Every tenth vertex is enough to frame the motion.
        worn, clad = person.worn
        seen = torch.stack([worn(clad, poses[i])[0][::10] for i in range(count)])
        step, size = self.generator.size_multiple, (camera.height, camera.width)
        height, width = self.generator.frame_size or (max(1, round(n / step)) * step for n in size)
        focal = float(camera.focal_px.mean())
        if self.generator.frame_size is not None:
            focal *= height / camera.height
        placed, shift = fit_camera(seen, height, width, focal_px=focal, margin=MARGIN)
        return replace(poses, trans=poses.trans + shift), placed, drape

    def _write(
        self,
        writer: SubjectWriter,
        split: str,
        person: TexturedPerson,
        controls: Controls,
        frames: UInt8[ndarray, "n h w c"],
        numbers: list[int],
        textures: Textures,
    ) -> None:
        """Writes the frames that are kept, and the textures of the split.

        ``textures`` are those of frames that show the photograph's own.
        """
        thinned = np.linspace(0, len(numbers) - 1, min(len(numbers), MOST_UNWRAPPED)).round()
        unwrapped, views = {numbers[int(i)] for i in thinned}, []
        for number in numbers:
            view = _view(person, controls, number)
            frame = self._frame(person, frames[number], controls.maps["mask"][number], view)
            writer.write_frame(split, number, frame)
            if controls.drape is not None:
                writer.write_surface_offset(
                    split, number, controls.drape.vertices, controls.drape.offset[number]
                )
            if number in unwrapped and not self.generator.aligned:
                inner = replace(frame, mask=trusted(frame.mask, view.maps))
                views.append(View(inner, view.vertices))
        writer.write_split(split, numbers)
        size = person.textures.texture.shape[0]
        textures = unwrap(views, person.mesh, size) if views else textures
        writer.write_textures(split, textures)

    def _frame(
        self,
        person: TexturedPerson,
        image: UInt8[ndarray, "h w c"],
        mask: Bool[ndarray, "h w"],
        view: BodyView,
    ) -> FrameData:
        """A generated frame with its maps; ``mask`` is the posed body's silhouette."""
        if self.generator.cut_out:
            parts = person.parts(view)
            if view.maps.mask.any():  # Clothes stand off the body, whose parts end before theirs.
                parts = parts[nearest_marked(view.maps.mask)]
            return frame_with(image[..., :3], image[..., 3] > OPAQUE, {"parts": parts}, None, view)
        if self.generator.aligned:
            return frame_with(image, mask, {"parts": person.parts(view)}, None, view)
        keypoints = body_keypoints(person.worn[0], view)
        return annotate_frame(self.annotators, image, mask, keypoints, view)


def _view(person: TexturedPerson, controls: Controls, number: int) -> BodyView:
    """What the person shows in a frame, its clothes as they hang there."""
    offset = person.hanging(controls.drape, number)
    return person.view(controls.pose[number], controls.camera, offset)


def reference_of(frame: FrameData) -> Reference:
    """The captured frame as a reference.

    Raises:
        ValueError: It has no keypoints.
    """
    if frame.keypoints is None:
        raise ValueError("a reference needs keypoints")
    return Reference(frame.image, frame.mask.astype(np.float32), frame.keypoints)
