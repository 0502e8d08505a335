"""Gross failures: errors that no user would accept, defined once.

A person is a gross failure if any of these holds. Rules whose truth the person's folder lacks are
skipped.
"""

from __future__ import annotations

from collections.abc import Mapping

LEAST_MASK_IOU = 0.9
MOST_FACING_DEG = 90.0
LEAST_FACE_DB = 12.0
LEAST_FACE_COVER = 0.3
LEAST_HAND_COVER = 0.3
MOST_BACKGROUND = 0.02

DEFINITIONS = (
    "refused: the photo path ended with an error, on a photo that is good",
    "ghost: more than one person found, where there is one",
    f"facing: pelvis and shoulders point {MOST_FACING_DEG:.0f} degrees or more away from the true "
    "heading (without true joints: from the camera, for people turned by 45 degrees or less)",
    f"mask: IoU of found and true mask in the photo below {LEAST_MASK_IOU:g}",
    f"face: in the front view the true face's pixels inside both silhouettes have less than "
    f"{LEAST_FACE_DB:g} dB PSNR, or less than {LEAST_FACE_COVER:g} of the true face shows a part "
    "of the face (needs true parts)",
    f"hand: of a true hand in sight in the front view (0.15 % of the person's pixels or more) less "
    f"than {LEAST_HAND_COVER:g} has skin of an arm or hand within 0.8 % of the picture's height "
    "in the texture's render (needs true parts)",
    f"background: more than {MOST_BACKGROUND:.0%} of the seen texels have a colour nearer to the "
    "photo's background beside them than to the person's beside them, where the two are 40 of 255 "
    "or more apart",
)


def gross_failures(row: Mapping[str, float | str]) -> list[str]:
    """The gross failures of a person's row, each with its number; empty for a good one."""
    if row.get("error"):
        return [f"refused ({row['error']})"]
    found = []

    def judge(name: str, key: str, fails: bool, text: str) -> None:
        if key in row and fails:
            found.append(f"{name} ({text})")

    def value(key: str) -> float:
        return float(row.get(key, 0))

    judge("ghost", "people_found", value("people_found") > 1, f"{value('people_found'):.0f} people")
    judge("facing", "facing_deg", value("facing_deg") >= MOST_FACING_DEG,
          f"{value('facing_deg'):.0f} degrees")  # fmt: skip
    judge("mask", "mask_iou", value("mask_iou") < LEAST_MASK_IOU, f"IoU {value('mask_iou'):.2f}")
    judge("face", "face_db", value("face_db") < LEAST_FACE_DB, f"{value('face_db'):.1f} dB")
    judge("face", "face_cover", value("face_cover") < LEAST_FACE_COVER,
          f"{value('face_cover'):.0%} of it")  # fmt: skip
    for hand in ("left", "right"):
        key = f"{hand}_hand_cover"
        judge(f"{hand} hand", key, value(key) < LEAST_HAND_COVER, f"{value(key):.0%} of it")
    judge("background", "background_share", value("background_share") > MOST_BACKGROUND,
          f"{value('background_share'):.1%} of the seen texture")  # fmt: skip
    return found
