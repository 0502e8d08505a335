"""CONTRIBUTING's examples about data work when pasted, and each has the promised files."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from persona.data.io import write_json, write_png
from persona.data.layout import Textures
from persona.data.palette import colours_from_classes
from persona.data.parameters import write_camera, write_pose
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import annotate
from persona.modules.diffusion.base import Reference
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose, Camera

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/examples"
PLACES = {"dataset": 2, "generator": 2, "detector": 2, "annotator": 2}


def files(name: str) -> list[Path]:
    """An example's files, as paths inside the repository."""
    folder = EXAMPLES / name
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".py", ".yaml"))
    return sorted(found)


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    """Adds examples to the package and to a copy of conf/; returns a function that composes."""

    def paste(*names: str):
        conf = tmp_path / "conf"
        shutil.copytree(ROOT / "conf", conf)
        for name, path in [(example, path) for example in names for path in files(example)]:
            assert not (ROOT / path).exists(), "an example must add files and change none"
            if path.suffix == ".yaml":
                shutil.copyfile(EXAMPLES / name / path, tmp_path / path)
                continue
            package = importlib.import_module(".".join(path.parent.parts))
            paths = [*package.__path__, str(EXAMPLES / name / path.parent)]
            monkeypatch.setattr(package, "__path__", paths)

        def composed(of: str, *overrides: str):
            with initialize_config_dir(str(conf), version_base="1.3"):
                return compose(of, overrides=list(overrides))

        return composed

    return paste


@pytest.mark.parametrize("name", PLACES)
def test_places_to_touch(name):
    assert len(files(name)) == PLACES[name]


@pytest.mark.parametrize("name", PLACES)
def test_contributing_shows_the_files(name):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in files(name):
        language = "python" if path.suffix == ".py" else "yaml"
        text = (EXAMPLES / name / path).read_text()
        assert f"`{path}`:\n\n```{language}\n{text}```" in page, path


def test_a_dataset(pasted, tmp_path):
    composed = pasted("dataset")
    write_studio(tmp_path / "studio/alice", SmplxBody())
    options = "data=studio", f"data.source.path={tmp_path / 'studio'}", f"subjects_dir={tmp_path}"
    config = composed("train", *options, "data.source.conversion.texture_size=64")
    data = instantiate(config.data)
    data.prepare_data()
    assert data.subject.splits == ("captured", "test")
    assert data.subject.original_names("test") == ["1", "2"]
    assert data.train_frames[[0]].mask.mean() > 0.05
    assert "studio alice" in data.subject.info.provenance
    (tmp_path / "studio/alice/masks").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"alice/masks: missing; get it from the studio"):
        instantiate(config.data).prepare_data()


def write_studio(folder: Path, body: SmplxBody) -> None:
    """Writes a recording of three frames of a turning person."""
    camera = Camera.identity(torch.full((2,), 130.0), torch.tensor([30.0, 40.0]), 80, 60)
    for number in range(3):
        pose = BodyPose.zero(body.num_expression)
        pose.root[:] = torch.tensor([np.pi, 0.1 * number, 0.0], dtype=torch.float32)
        pose.trans[:] = torch.tensor([0.0, 0.0, 3.0])
        vertices, _ = body(body.zero_identity(), pose)
        mask = rasterize(vertices, body.faces, camera).mask.numpy()
        image = np.where(mask[..., None], np.uint8([180, 120, 90]), np.uint8(128))
        write_png(folder / f"images/{number}.png", image)
        write_png(folder / f"masks/{number}.png", mask)
        write_camera(folder / f"cam_params/{number}.json", camera)
        write_pose(folder / f"smplx_params/{number}.json", pose)
    write_json(folder / "images/about.json", {"frames": 3})


def test_a_generator_and_an_annotator(pasted, tmp_path):
    composed = pasted("generator", "annotator")
    config = composed(
        "preprocess", "generator=paper_doll", "annotator=head_and_rest", "clips.num_frames=2",
        "clips.motions=[turntable]", "gate=none",
    )  # fmt: skip
    annotator, body = instantiate(config.annotator), SmplxBody()
    maker = instantiate(config.clips).with_annotator(annotator)
    maker.check(body, fitted=True)
    grey = np.full((16, 16, 3), 90, np.uint8)
    seg = colours_from_classes(np.full((16, 16), 21, np.uint8))
    textures = Textures(grey, np.ones((16, 16), bool), grey, seg)
    image = np.full((12, 8, 3), 255, np.uint8)
    image[3:9, 2:6] = 10, 200, 30
    alpha = (image[..., 0] < 255).astype(np.float32)
    camera = Camera.identity(torch.full((2,), 130.0), torch.tensor([24.0, 32.0]), 66, 50)
    (tmp_path / "me/captured").mkdir(parents=True)
    maker(
        SubjectWriter(tmp_path / "me"), TexturedPerson(body, body.zero_identity(), textures),
        Reference(image, alpha, np.zeros((133, 3), np.float32)), camera,
    )  # fmt: skip
    frame = Subject(tmp_path / "me").frame("generated_0", 0)
    assert frame.image.shape == (64, 48, 3)
    assert (frame.image[frame.mask] == (10, 200, 30)).all() and frame.mask.mean() > 0.05
    rows = np.flatnonzero(frame.mask.any(1))
    colours = colours_from_classes(np.array([2, 22], np.uint8))
    assert (frame.seg[rows[0]][frame.mask[rows[0]]] == colours[0]).all()
    assert (frame.seg[rows[-1]][frame.mask[rows[-1]]] == colours[1]).all()


def test_a_detector(pasted):
    composed = pasted("detector", "annotator")
    config = composed("preprocess", "detector=cut_out", "annotator=head_and_rest")
    detector, annotator = instantiate(config.detector), instantiate(config.annotator)
    image = torch.ones(40, 30, 3)
    image[10:30, 5:25] = 0.3
    found = detector(image, "me.png")
    assert found.mask.sum() == 20 * 20 and found.keypoints[0].tolist() == pytest.approx(
        [15, 11.6, 1]
    )
    with pytest.raises(UserError, match=r"white\.png: all white"):
        detector(torch.ones(4, 4, 3), "white.png")
    pixels = np.asarray(Image.fromarray((image.numpy() * 255).astype(np.uint8)))
    maps = annotate(annotator, pixels, found.mask.numpy(), found.keypoints)
    assert (maps["alpha"] > 0.5).sum() == 400
