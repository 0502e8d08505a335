"""An untrained photographed person in the test's motion, in skinned or simulated clothes.

This shows what simulated clothes gain by themselves, before an avatar learns from them.
"""

from pathlib import Path

import torch
from torch import Tensor

from persona.benchmark.predictions import write_prediction
from persona.data.layout import CAPTURED, TEST
from persona.data.motion.camera import place_in_world
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.data.synthetic.photographed import PhotographedSubject
from persona.errors import UserError
from persona.modules.cloth.drape import Drape, Fabric, drape
from persona.types import BodyPose

UNTRAINED = {"untrained, clothes skin": False, "untrained, clothes simulated": True}
"""By name: whether clothes are simulated over the test's motion."""


@torch.no_grad()
def render_untrained(source: PhotographedSubject, root: Path, folder: Path) -> None:
    """Writes every test frame as predictions: ``folder/NAME/N.png``.

    Args:
        source: Source of the person.
        root: Its folder, made.
        folder: Where to.

    Raises:
        UserError: the person wears nothing that can be simulated.
    """
    body, subject = source.body, Subject(root)
    person = TexturedPerson(body, subject.identity(body), subject.textures(CAPTURED)).in_garment()
    poses = [subject.pose(TEST, i, body.num_expression) for i in subject.frame_ids(TEST)]
    hung = hanging(person, poses, source.config.fps)
    for name, simulated in UNTRAINED.items():
        for row, (number, pose) in enumerate(zip(subject.frame_ids(TEST), poses, strict=True)):
            offset = person.hanging(hung if simulated else None, row)
            camera = subject.camera(TEST, number)
            image, mask = person.colour(pose, camera, offset=offset)
            layers: list[Tensor] = [
                torch.from_numpy(image).permute(2, 0, 1) / 255,
                torch.from_numpy(mask)[None].float(),
            ]
            write_prediction(folder / name, f"{TEST}/{number}", *layers)


def hanging(person: TexturedPerson, poses: list[BodyPose], fps: float) -> Drape:
    """The clothes simulated over consecutive poses (camera coordinates, upright camera).

    Raises:
        UserError: there are none that can be.
    """
    body, identity = person.body, person.identity
    clip = BodyPose.from_joints(
        torch.stack([pose.joints for pose in poses]),
        torch.stack([pose.expression for pose in poses]),
        torch.stack([pose.trans for pose in poses]),
    )
    world = place_in_world(clip, body.shape(identity)[1][0])
    every = torch.arange(len(poses))
    found = drape(body, identity, world, fps, every, Fabric())
    if found is None:
        raise UserError("no clothes that hang are found on the person; take another subject")
    return found
