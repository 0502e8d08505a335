"""From photographs of a person to a subject folder in PERSONA's layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy import ndarray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy import ndimage

from persona.data.layout import CAPTURED, EARLIER, FrameData, SubjectInfo, Textures
from persona.data.making import whole_folder
from persona.data.preprocess.albedo import remove_shading
from persona.data.preprocess.annotate import EDGE, MIN_FACING, BodyView, frame_with, view_body
from persona.data.preprocess.canvas import Canvas, face_patch, person_canvas
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.clip_store import ClipStore
from persona.data.preprocess.clothing import ClothingFit, Photo, dressed_as
from persona.data.preprocess.contact import contact_shadow
from persona.data.preprocess.cover import Cover
from persona.data.preprocess.dresser import Dresser
from persona.data.preprocess.fit import NOTHING, BodyFit, Known, PhotoFit
from persona.data.preprocess.fit_check import FACE_AWAY, write_overlay
from persona.data.preprocess.fit_facing import agreed_facings
from persona.data.preprocess.fit_outline import placed_by_outline
from persona.data.preprocess.fit_starts import is_standing
from persona.data.preprocess.fit_together import STEPS, fit_together
from persona.data.preprocess.maps import near_occlusion
from persona.data.preprocess.part_order import in_order
from persona.data.preprocess.parts import (
    PARTS,
    agrees,
    beside_arms,
    is_bare,
    limb_of_vertices,
    strays,
)
from persona.data.preprocess.prior import TexturePrior
from persona.data.preprocess.read_sight import annotated, read_sight
from persona.data.preprocess.several import Sight, shared_identity, unwrap_photos, without_face
from persona.data.preprocess.sheet import write_sheet
from persona.data.preprocess.texture_fill import fill_unseen
from persona.data.preprocess.textured_person import TexturedPerson, uv_mesh
from persona.data.preprocess.unwrap import View
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.regions import body_regions
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Annotator, Detector
from persona.modules.diffusion.base import Fitted, Reference
from persona.modules.nearest import nearest_marked
from persona.types import Camera

log = logging.getLogger(__name__)

CAPTURED_NUMBER = 0
SHEET_FILE = "sheet.png"
"""What was seen, fitted and guessed, at a glance."""
DEFAULT_CLOTHING = ClothingFit()
CROP_PER_TEXEL = 1.25
"""Height of the crop that is unwrapped, in texture sides: about a pixel per texel."""
_MIXED_PX = 3
"""Width of the rim at the person's outline that shows background as well, pixels."""


class PhotoPreprocessor:
    """Detects, fits, unwraps and generates.

    Args:
        detector: Finds the person.
        annotator: Says of each of the person's pixels which part it shows.
        body: Body model.
        clips: Makes the ``generated_*`` splits.
        fit: Fits pose and identity.
        clothing: Adds skirt and the girth of clothes and hair; None keeps the naked body.
        height: Height of the captured frame, pixels.
        width: Its width.
        texture_size: Side of the textures, texels.
        prior: Has a say in the colours of what no photograph shows; None leaves them plain.
        textured: Make clothes, textures and clips. False leaves the photograph with the naked body
            in it, all that a method reads whose ``reads_texture`` is False.
    """

    def __init__(  # noqa: PLR0913 (parts by keyword)
        self,
        *,
        detector: Detector,
        annotator: Annotator,
        body: SmplxBody,
        clips: ClipMaker,
        fit: PhotoFit | None = None,
        clothing: ClothingFit | None = DEFAULT_CLOTHING,
        height: int = 512,
        width: int = 384,
        texture_size: int = 1024,
        prior: TexturePrior | None = None,
        textured: bool = True,
    ):
        if "parts" not in annotator.provides:
            raise UserError(f"{type(annotator).__name__} gives no parts; choose another annotator=")
        self.detector, self.annotator = detector, annotator
        self.body, self.clips = body, clips.with_annotator(annotator)
        self.fit, self.clothing = fit or PhotoFit(), clothing
        self.height, self.width, self.texture_size = height, width, texture_size
        self.prior, self.textured = prior if textured else None, textured
        self.regions, self.limbs = body_regions(body), limb_of_vertices(body)

    def run(
        self,
        photos: str | Path | Sequence[str | Path],
        root: str | Path,
        known: Known = NOTHING,
    ) -> Subject:
        """Makes the subject folder.

        Args:
            photos: An image of one person, or several of the same: the first is what the avatar is
                trained to show and sets the light, the others tell of shape and other sides.
            root: Folder to write. An earlier subject in it is replaced at the very end: after an
                error it is as it was.
            known: What need not be fitted; a pose is that of the only photo.

        Raises:
            UserError: A photo or a driving motion cannot be read, nobody is found, or the
                generator fails.
        """
        several = [photos] if isinstance(photos, str | Path) else photos
        root, paths = Path(root), [Path(photo) for photo in several]
        if self.textured:
            self.clips.check(self.body, fitted=True)
        if self.prior is not None:
            self.prior.check()
        sights = [
            read_sight(path, self.detector, self.annotator, self._crop, known.focal_px)
            for path in paths
        ]
        with _progress() as progress:
            used, fits, told = self._fit(sights, progress, root, known)
            with whole_folder(root, EARLIER) as folder:
                self.write(used, fits, folder, progress, told)
        ClipStore(root).forget()
        return Subject(root)

    def write(
        self,
        sights: Sequence[Sight],
        fits: Sequence[BodyFit],
        folder: Path,
        progress: Progress,
        told: Sequence[str] = (),
    ) -> None:
        """Fills a new subject folder with people whose naked bodies are known.

        Args:
            sights: The photographs.
            fits: The body in each.
            folder: To write; it may be that of a ``whole_folder``.
            progress: Shows how far it is.
            told: What was said of photographs that are not used, for the provenance.

        Raises:
            UserError: The generator fails.
        """
        first, shots = sights[0], list(zip(sights, fits, strict=True))
        log.info("fit: mean keypoint distance %.1f px", fits[0].residual_px)
        fine = [self._fine(*shot) for shot in (shots if self.textured else shots[:1])]
        canvas = person_canvas(first.image, first.detection, first.camera, self.height, self.width)
        canvas = canvas.with_maps(fine[0].maps)
        writer = SubjectWriter(folder)
        told = [*(w for s in sights for w in s.detection.warnings), *told]
        if self.textured:
            told = [*self._write_person(writer, canvas, fine, sights, fits, progress), *told]
        else:
            self._write(writer, canvas, fits[0])
            self._write_overlay(folder / SHEET_FILE, first, fits[0])
        writer.finish(self._info([sight.photo for sight in sights], told))

    def _write_person(
        self,
        writer: SubjectWriter,
        canvas: Canvas,
        fine: Sequence[Canvas],
        sights: Sequence[Sight],
        fits: Sequence[BodyFit],
        progress: Progress,
    ) -> list[str]:
        """Writes the dressed person, complete textures and generated frames. Returns notes."""
        fit, cover = fits[0], Cover.none(len(self.limbs))
        if self.clothing is not None:
            task = progress.add_task("clothing", total=self.clothing.iterations)
            outlines = [
                Photo(fit, sight.detection, sight.camera)
                for fit, sight in zip(fits, sights, strict=True)
            ]
            dresser = Dresser(self.body, self.regions, self.limbs, self.clothing)
            fit, cover = dresser(canvas, outlines, lambda n: progress.advance(task, n))
            further = (placed_by_outline(self.body, shot, fit.identity) for shot in outlines[1:])
            fits = [fits[0], *further]
        self._write(writer, canvas, fit)
        dressed = [fit, *(dressed_as(self.body, other, fit.identity) for other in fits[1:])]
        textures = self._textures(fine, dressed, fits, cover, [s.photo.name for s in sights])
        reference = Reference(
            fine[0].image, fine[0].alpha, fine[0].keypoints.float().numpy(),
            Fitted(self.body, fits[0].identity, fits[0].pose, fine[0].camera),
        )  # fmt: skip
        told: list[str] = []
        if self.prior is not None:
            textures, told = self.prior(textures, uv_mesh(self.body, fit.identity), reference)
        writer.write_textures(CAPTURED, textures)
        person = TexturedPerson(self.body, fit.identity, textures)
        write_sheet(writer.root / SHEET_FILE, canvas, fit, person)
        task = progress.add_task("generating frames", total=self.clips.steps)
        self.clips(writer, person, reference, canvas.camera, lambda n: progress.advance(task, n))
        return told

    def _fit(
        self, sights: Sequence[Sight], progress: Progress, root: Path, known: Known
    ) -> tuple[Sequence[Sight], Sequence[BodyFit], list[str]]:
        """The photographs that are used, a pose for each and one shape, and notes on the others.

        A first photograph that does not fit is refused. A further one that is misread by itself
        may be understood beside the others; if one of them then does not fit, it is left out. A
        face that all else contradicts, alone and beside the others, is forgotten.
        """
        steps = len(sights) * self.fit.steps + (STEPS if len(sights) > 1 else 0)
        task = progress.add_task("fitting the body", total=steps)

        def advance(steps: int) -> None:
            progress.advance(task, steps)

        def each(sights: Sequence[Sight], known: Known) -> list[BodyFit]:
            return [
                self.fit(self.body, sight.detection, sight.camera, advance, sight.fine, known)
                for sight in sights
            ]

        fits: Sequence[BodyFit] = each(sights, known)
        self._accept(fits[:1], sights[:1], root)
        sights, fits = agreed_facings(self.fit, self.body, sights, fits, known)
        told: list[str] = []
        while len(sights) > 1:
            together = fit_together(self.fit, self.body, sights, fits, advance)
            faulty = [k for k, fit in enumerate(together) if fit.faults]
            if not faulty:
                return sights, together, told
            imagined = [k for k in faulty if (FACE_AWAY,) == together[k].faults == fits[k].faults]
            if imagined:
                steps += len(imagined) * self.fit.steps + STEPS
                progress.update(task, total=steps)
                sights, fits = list(sights), list(fits)
                for k in imagined:
                    log.warning("%s: what was taken for a face is none", sights[k].photo)
                    sights[k] = without_face(sights[k])
                    (fits[k],) = each([sights[k]], known)
                continue
            alone = [k for k, fit in enumerate(fits) if fit.faults]
            misread = [k for k in faulty if k in alone] or alone
            if not misread:
                steps += len(sights) * self.fit.steps
                progress.update(task, total=steps)
                log.warning(
                    "the photos are fitted each by itself: together, %s would not fit any more",
                    ", ".join(str(sights[k].photo) for k in faulty),
                )
                fits = each(sights, replace(known, identity=shared_identity(fits)))
                self._accept(fits, sights, root)
                return sights, fits, told
            for k in misread:
                photo = sights[k].photo
                fit = together[k] if together[k].faults else fits[k]
                picture = root.with_name(f"{root.name}_left_out_{photo.stem}.png")
                log.warning("left out: %s", self._refusal(sights[k], fit, picture))
                told.append(f"{photo.name} left out: {', '.join(fit.faults)}")
            left = [k for k in range(len(sights)) if k not in misread]
            sights, fits = [sights[k] for k in left], [fits[k] for k in left]
            steps += STEPS if len(sights) > 1 else 0
            progress.update(task, total=steps)
        return sights, fits, told

    def _fine(self, sight: Sight, fit: BodyFit) -> Canvas:
        """The crop that is unwrapped, with the annotator's maps."""
        detection = sight.detection
        canvas = person_canvas(sight.image, detection, sight.camera, *self._crop)
        # An annotator that needs the fitted body has not been asked yet.
        read = sight.fine or annotated(self.annotator, canvas, self._view(canvas.camera, fit).limbs)
        parts = in_order(read.parts, read.image, is_standing(detection.keypoints))
        return canvas.with_maps({**read.maps, "parts": parts})

    @property
    def _crop(self) -> tuple[int, int]:
        """Height and width of the crop whose pixels become texels."""
        height = round(CROP_PER_TEXEL * self.texture_size)
        return height, round(height * self.width / self.height)

    def _view(self, camera: Camera, fit: BodyFit) -> BodyView:
        """What the fitted body shows in a camera."""
        return view_body(self.body, self.limbs, fit.identity, fit.pose, camera)

    def _accept(self, fits: Sequence[BodyFit], sights: Sequence[Sight], root: Path) -> None:
        """Refuses a fit that failed the check, with a picture of it beside the folder."""
        for fit, sight in zip(fits, sights, strict=True):
            if not fit.faults:
                continue
            picture = root.with_name(f"{root.name}_refused.png")
            raise UserError(self._refusal(sight, fit, picture))

    def _refusal(self, sight: Sight, fit: BodyFit, picture: Path) -> str:
        """Draws a fit that failed the check, and says what is wrong and what to do."""
        self._write_overlay(picture, sight, fit)
        return (
            f"{sight.photo}: the body does not fit what is seen ({'; '.join(fit.faults)}; see "
            f"{picture}); give a photo of one person in full, or set detector.person=, "
            "fit.facing= or detector=file with your own mask and keypoints"
        )

    def _write_overlay(self, path: Path, sight: Sight, fit: BodyFit) -> None:
        """Writes the fitted body over its photograph."""
        vertices, _ = self.body(fit.identity, fit.pose)
        write_overlay(path, sight.image, sight.detection, vertices, self.body.faces, sight.camera)

    def _write(self, writer: SubjectWriter, canvas: Canvas, fit: BodyFit) -> None:
        """Writes the photograph and the body in it."""
        writer.write_identity(fit.identity)
        writer.write_frame(CAPTURED, CAPTURED_NUMBER, self._captured(canvas, fit))
        vertices, _ = self.body(fit.identity, fit.pose)
        writer.write_mesh(CAPTURED, CAPTURED_NUMBER, vertices, self.body.faces)
        writer.write_split(CAPTURED, [CAPTURED_NUMBER])

    def _captured(self, canvas: Canvas, fit: BodyFit) -> FrameData:
        """The photograph with what the fitted body says about it."""
        view, image, mask = self._view(canvas.camera, fit), canvas.on_white, canvas.mask
        maps, both = view.maps, mask & view.maps.mask
        frame = frame_with(image, mask, {"parts": canvas.parts}, canvas.keypoints, view)
        own = _own_colour(canvas, view.limbs) | (view.limbs < 0)
        patch, box = face_patch(canvas)
        return replace(
            frame,
            depth=_extend(maps.depth, maps.mask), normal=_extend(maps.normal, maps.mask),
            albedo=remove_shading(image, mask, maps.normal, both, canvas.parts),
            patch=patch, patch_box_px=box, others={"own_colour": own},
        )  # fmt: skip

    def _textures(
        self,
        canvases: Sequence[Canvas],
        fits: Sequence[BodyFit],
        naked: Sequence[BodyFit],
        cover: Cover,
        names: Sequence[str],
    ) -> Textures:
        """Unwraps the fine crops of the photographs and fills in what they do not show."""
        views = [self._seen(*parts) for parts in zip(canvases, fits, naked, strict=True)]
        mesh = uv_mesh(self.body, fits[0].identity)
        seen = unwrap_photos(views, mesh, self.texture_size, names)
        canonical, _, _ = self.body.canonical(fits[0].identity)
        return fill_unseen(seen, mesh, canonical, self.limbs, self.regions, cover)

    def _seen(self, canvas: Canvas, fit: BodyFit, naked: BodyFit) -> View:
        """What of a photograph may become texture."""
        height = canvas.camera.height
        edge = round(EDGE * height)
        view = self._view(canvas.camera, fit)
        maps, limbs = view.maps, view.limbs
        # The outermost pixels, of the crop and of the photograph, mix with the background.
        mixed = round(_MIXED_PX * max(1, height / canvas.source.shape[0]))
        inner = ndimage.binary_erosion(canvas.mask, iterations=mixed)
        inner &= maps.facing > MIN_FACING
        inner &= ~near_occlusion(maps.depth, maps.mask, edge)
        inner &= ~self._covered_by_arms(canvas.camera, naked, limbs)
        inner &= ~beside_arms(limbs, edge)
        inner &= _own_colour(canvas, limbs)
        frame = frame_with(canvas.image, inner, {"parts": canvas.parts}, None, view)
        return View(frame, view.vertices)

    def _covered_by_arms(
        self, camera: Camera, naked: BodyFit, limbs: Int[ndarray, "h w"]
    ) -> Bool[ndarray, "h w"]:
        """Pixels where an arm or hand lies over clothes that the girth has brought before it."""
        before = self._view(camera, naked).limbs
        arms = [i for i, name in enumerate(PARTS) if "Arm" in name or "Hand" in name]
        covered = np.isin(before, arms) & ~np.isin(limbs, arms) & (limbs >= 0)
        radius = round(EDGE * camera.height)
        return ndimage.binary_dilation(covered, iterations=radius)

    def _info(self, photos: Sequence[Path], told: Sequence[str]) -> SubjectInfo:
        """What is measured and what is made up; ``told`` is what was said on the way."""
        girth = (
            "skirt, hair and outline girth on face_offset"
            if self.textured and self.clothing is not None
            else "naked body"
        )
        unseen = "made up: plain cloth and skin, hair on the head" if self.textured else "not made"
        provenance = "; ".join((
            f"photo {', '.join(photo.name for photo in photos)}",
            f"keypoints and mask by {type(self.detector).__name__}, or by the annotator where told",
            f"parts by {type(self.annotator).__name__}",
            f"SMPL-X fit with assumed focal length, {girth}",
            "depth and normals from the fitted body, not from networks",
            "albedo: smooth shading divided out, a stand-in for intrinsic decomposition",
            "face patch by Lanczos, not super-resolved",
            f"unseen texture {unseen}",
            *told,
        ))  # fmt: skip
        generator = self.clips.generator.name if self.textured and self.clips.motions else ""
        return SubjectInfo(
            self.body.name, self.body.digest, provenance, generator, textured=self.textured
        )


def _own_colour(canvas: Canvas, limbs: Int[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels that show the colour of the limb which the fitted body has there, in plain light."""
    own = agrees(canvas.parts, limbs) & ~strays(is_bare(canvas.parts), limbs)
    return own & ~contact_shadow(canvas.image, canvas.mask, canvas.parts, limbs)


def _extend(
    values: Float32[ndarray, "h w *c"], known: Bool[ndarray, "h w"]
) -> Float32[ndarray, "h w *c"]:
    """Repeats the nearest known value, so that maps have no holes inside the person."""
    return values[nearest_marked(known)].astype(np.float32)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
