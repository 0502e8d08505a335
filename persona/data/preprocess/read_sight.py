"""Reads a photograph: finds the person in it, and what an annotator sees of them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from numpy import ndarray

from persona.data.io import read_image
from persona.data.preprocess.canvas import Canvas, person_canvas
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_camera import exif_focal_px
from persona.data.preprocess.fit_joints import with_agreed_limbs, with_agreed_sides
from persona.data.preprocess.matte import refine_mask
from persona.data.preprocess.second_look import look_again, look_smoothed
from persona.data.preprocess.seen_wrists import with_both_hands, with_seen_wrists
from persona.data.preprocess.several import Sight, upright
from persona.modules.detect import Annotator, Detection, Detector, NobodyFound, annotate
from persona.types import Camera

log = logging.getLogger(__name__)


def read_sight(
    photo: Path,
    detector: Detector,
    annotator: Annotator,
    crop: tuple[int, int],
    focal_px: float | None = None,
) -> Sight:
    """The person in a photograph; what detector and annotator disagree about is settled.

    Args:
        photo: Image file.
        detector: Finds the person.
        annotator: Has its say unless it needs a fitted body.
        crop: Height and width of the fine crop, pixels.
        focal_px: Focal length; None takes the file's own, or assumes one.

    Raises:
        UserError: The file cannot be read, or nobody is found.
    """
    image = read_image(photo)
    detection = find_person(image, detector, annotator, str(photo))
    for line in detection.warnings:
        log.warning(line)
    image, detection = upright(image, detection, photo)
    height, width = image.shape[:2]
    camera = photo_camera(height, width, focal_px or exif_focal_px(photo, height, width))
    fine = None
    if not annotator.needs_prior:
        if "alpha" in annotator.provides:
            detection = refine_mask(image, detection, annotator)
        fine = annotated(annotator, person_canvas(image, detection, camera, *crop))
        detection, fine = _agreed(photo, image, detection, camera, fine)
    return Sight(photo, image, detection, camera, fine)


def find_person(
    image: UInt8[ndarray, "h w 3"], detector: Detector, annotator: Annotator, source: str
) -> Detection:
    """The person found by the detector, else in the smoothed photo, else by the annotator alone.

    Args:
        image: The photograph.
        detector: Finds the person.
        annotator: Asked only about whom the detector does not find.
        source: Name of the photograph for messages.

    Raises:
        NobodyFound: As the detector says it.
    """
    try:
        return detector(torch.from_numpy(image).float() / 255, source)
    except NobodyFound:
        seen = look_smoothed(image, detector, annotator, source)
        seen = seen or look_again(image, annotator, source)
        if seen is None:
            raise
        return seen


def annotated(
    annotator: Annotator, canvas: Canvas, prior: Int[ndarray, "h w"] | None = None
) -> Canvas:
    """A crop with the annotator's maps, within the mask that it has.

    Args:
        annotator: Sees it.
        canvas: The person's crop; the detection's mask has the annotator's matte in it already.
        prior: Limb of the fitted body at each pixel, for annotators that need it.
    """
    maps = annotate(annotator, canvas.image, canvas.alpha, canvas.keypoints, prior)
    maps.pop("alpha", None)
    return canvas.with_maps(maps)


def _agreed(
    photo: Path, image: UInt8[ndarray, "h w 3"], found: Detection, camera: Camera, fine: Canvas
) -> tuple[Detection, Canvas]:
    """Hands, then sides, limbs and wrists, as the fine crop shows them."""
    size = fine.image.shape[:2]
    fine = fine.with_maps({**fine.maps, "parts": with_both_hands(fine)})
    sided = with_agreed_sides(found, fine)
    if sided is not found:
        log.info("%s: left and right exchanged, as the picture is read", photo)
        fine = person_canvas(image, sided, camera, *size).with_maps(fine.maps)
    limbed = with_agreed_limbs(sided, fine, camera)
    if limbed is not sided:
        log.info("%s: a limb taken from where the picture is read", photo)
        fine = person_canvas(image, limbed, camera, *size).with_maps(fine.maps)
    detection, fine = with_seen_wrists(limbed, fine, camera)
    if detection is not limbed:
        log.info("%s: a wrist taken from where forearm and hand are seen", photo)
    return detection, fine
