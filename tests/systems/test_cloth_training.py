"""A skirt, from the frames of ``generator=cloth`` to an avatar that learns its shape."""

import shutil

import pytest
import torch
from hydra.utils import instantiate

from persona.commands.experiment import load_system, train
from persona.data.layout import SubjectInfo
from persona.data.preprocess.clip import ClipMaker, reference_of
from persona.data.preprocess.parts import limb_of_vertices
from persona.data.preprocess.skirt import Skirt, leg_vertices, skirt_offset
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.modules.diffusion.cloth import ClothGenerator


@pytest.fixture
def skirted(subjects, body, tmp_path):
    """The tiny subject in a skirt, whose two clips are replaced by a simulated one of 3 frames."""
    root = tmp_path / "skirted"
    shutil.copytree(subjects / "tiny", root)
    for split in root.glob("generated_*"):
        shutil.rmtree(split)
    subject = Subject(root)
    identity = subject.identity(body)
    rest, joints = body.shape(identity)
    offset, _ = skirt_offset(
        rest, joints, leg_vertices(limb_of_vertices(body)), Skirt(-0.47, -0.95)
    )
    shift = body.joint_regressor @ offset
    shift[0] = 0
    identity.face_offset.add_(offset)
    identity.joint_offset.sub_(shift)
    writer = SubjectWriter(root)
    writer.write_identity(identity)
    person = TexturedPerson(body, identity, subject.textures("captured"))
    frame = subject.frame("captured", 0)
    maker = ClipMaker(generator=ClothGenerator(), motions=("walk",), num_frames=3)
    maker(writer, person, reference_of(frame), frame.camera)
    writer.finish(SubjectInfo(body.name, body.digest, "synthetic", ClothGenerator.name))
    return tmp_path


@pytest.mark.slow
def test_the_avatar_learns_where_the_skirt_hangs(tiny, skirted, tmp_path):
    config = tiny(
        "loss=[persona,surface_offset]", f"subjects_dir={skirted}", "name=skirted",
        "loss.surface_offset.weight=100.0", "trainer.max_steps=40", "pictures.turntable_frames=0",
        "avatar.skirt=true",
    )  # fmt: skip
    train(config, tmp_path / "run")
    system, data = load_system(tmp_path / "run"), instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    frames = data.train_frames
    system.method.see_frames([Subject(skirted / "skirted")], frames)
    assert system.method.surface.told.tolist() == [False, True, True, True]

    def apart(offsets: bool) -> float:
        total = 0.0
        for row in (1, 2, 3):
            step = system.frame_step(frames[[row]], system.table(torch.tensor(row)))
            posed = step.posed
            if not offsets:
                posed = type(posed)(**(vars(posed) | {"refined": posed.base}))
            place = torch.tensor(row), system.avatar.template, posed
            total += float(step.surface.distance(*place)) / 3
        return total

    with torch.no_grad():
        skin, learnt = apart(False), apart(True)
    assert skin > 0.01 and learnt < 0.8 * skin
