"""A subject folder's maps from one form to the other."""

from __future__ import annotations

from rich.progress import track

from persona.data.compact import FORMS, write_classes, write_map
from persona.data.io import PathLike
from persona.data.layout import MAPS
from persona.data.making import one_maker
from persona.data.subject import Subject
from persona.errors import check_choice


def convert_maps(root: PathLike, form: str) -> None:
    """Rewrites all maps, frame by frame, that are not in the wanted form yet.

    Args:
        root: The subject folder.
        form: ``compact``, or ``raw`` for PERSONA's own code.

    Raises:
        UserError: no such form, or a folder that is broken.
    """
    check_choice("form", form, FORMS)
    subject = Subject(root)
    with one_maker(subject.root.absolute()):
        subject.validate()
        frames = [(split, n) for split in subject.splits for n in subject.frame_ids(split)]
        for split, number in track(frames, f"writing {form} maps", transient=True):
            _convert_frame(subject, split, number, form)


def _convert_frame(subject: Subject, split: str, number: int, form: str) -> None:
    """Rewrites those maps of a frame that are not in the form yet."""
    folder = subject.root / split
    for kind in (name for name, spec in MAPS.items() if spec.compact):
        values = subject.map(split, kind, number)
        is_raw = subject.path(split, kind, number).suffix == ".npy"
        if values is not None and is_raw != (form == "raw"):
            write_map(folder, kind, number, values, form)
    write_classes(folder, number, subject.seg(split, number)[0], form)
