"""Bad input at the command line: one line says what is wrong, exit code 1, nothing is written."""

import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from processes import environment

from persona.commands.experiment import CONFIG_FILE
from persona.runtime.checkpoint import CHECKPOINT_FILE

ROOT = Path(__file__).parents[1]


@pytest.fixture
def start(tmp_path):
    """Runs an entry point in an empty folder and in a new Python process, as a user does."""

    def run(script: str, *overrides: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / script), *overrides],
            cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def launch(tmp_path, tmp_path_factory):
    """As ``start``, but in a fork of this process, whose imports are already done."""

    def run(script: str, *overrides: str) -> subprocess.CompletedProcess:
        logs = tmp_path_factory.mktemp("logs")
        child = os.fork()
        if not child:
            code = 1
            try:
                for number, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(logs / name, os.O_CREAT | os.O_WRONLY), number)
                    setattr(sys, name, os.fdopen(number, "w", 1, closefd=False))
                os.environ.pop("RUN_STAMP", None)
                os.chdir(tmp_path)
                sys.argv = [str(ROOT / script), *overrides]
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
                if isinstance(error.code, str):
                    print(error.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        told = [(logs / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([script], os.waitstatus_to_exitcode(status), *told)

    return run


def one_line(done: subprocess.CompletedProcess) -> str:
    """The only line that starts with "error: "; checks the exit code and for a traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def products(folder: Path) -> list[str]:
    """Names of all files, without logs and .hydra."""
    kept = {p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.parts}
    return sorted(p.name for p in kept if p.suffix != ".log")


def test_no_such_photo(launch, tmp_path):
    done = launch("scripts/preprocess.py", "photo=absent.jpg", "name=someone")
    assert "absent.jpg: no such photo" in one_line(done)
    assert products(tmp_path) == []


def test_photo_that_is_no_image(launch, tmp_path):
    (tmp_path / "words.jpg").write_text("not a picture")
    done = launch("scripts/preprocess.py", "photo=words.jpg", "name=someone")
    assert "words.jpg: not an image" in one_line(done)
    assert products(tmp_path) == ["words.jpg"]
    assert not (tmp_path / "data").exists()


def test_missing_run_folder(launch, tmp_path):
    done = launch("scripts/animate.py", "run=absent")
    assert "absent is not a run folder" in one_line(done)
    assert products(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("scripts/create.py", "name= is not given"),
        ("scripts/animate.py motion=walk", "not given: run=..."),
        ("scripts/animate.py run=absent motion=clip(1).bvh", "motion='clip(1).bvh'"),
        ("scripts/animate.py run=absent hydra.run.dir=taken/x", "taken"),
        ("train.py +exp=nope", "nope"),
    ],
)
def test_what_the_user_typed_is_told_in_one_line(launch, tmp_path, command, told):
    (tmp_path / "taken").write_text("a file, not a folder")
    done = launch(*command.split())
    assert told in one_line(done)
    assert len(done.stderr.splitlines()) == 1
    assert products(tmp_path) == ["taken"]


@pytest.mark.slow
def test_no_such_motion(start, tmp_path):
    untrained_run(tmp_path / "run")
    done = start("scripts/animate.py", f"run={tmp_path / 'run'}", "motion=moonwalk", "device=cpu")
    assert "moonwalk: no such motion" in one_line(done)
    assert products(tmp_path) == sorted([CHECKPOINT_FILE, CONFIG_FILE])


def untrained_run(folder: Path) -> None:
    """Writes a run folder with a checkpoint of an untrained avatar of the mean body."""
    small = [
        "avatar.levels=0",
        "avatar.field_resolution=16",
        "avatar.field_steps=2",
        "renderer=cpu",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=["data=subject", "metric.lpips_net=null", *small])
    system = instantiate(config.system)
    system.build(system.body.zero_identity(), num_frames=1)
    checkpoint = {"state_dict": system.state_dict()}
    system.on_save_checkpoint(checkpoint)
    folder.mkdir()
    torch.save(checkpoint, folder / CHECKPOINT_FILE)
    (folder / CONFIG_FILE).write_text(OmegaConf.to_yaml(config, resolve=True))


def test_misspelt_key(launch, tmp_path):
    done = launch("train.py", "+exp=demo", "avatar.levles=1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "avatar.levles" in done.stderr
    assert not list(tmp_path.iterdir())


def test_missing_subject(launch, tmp_path):
    done = launch("train.py", "+exp=demo", "data=subject", "name=absent", "logger=none")
    assert "absent: no such subject folder" in one_line(done)
    assert products(tmp_path) == ["config.yaml"]


@pytest.mark.slow
def test_loss_network_without_its_weights(start, tmp_path):
    """The error is raised inside Hydra's instantiate, which wraps it."""
    done = start("train.py", "+exp=demo", "perceptual=vgg", "logger=none", TORCH_HOME=str(tmp_path))
    line = one_line(done)
    assert "vgg16-397923af.pth" in line and "perceptual=none" in line


@pytest.mark.slow
def test_nothing_to_resume(start, tmp_path):
    done = start("train.py", "resume=absent")
    assert "absent is not a run folder" in one_line(done)


@pytest.mark.parametrize("script", ["bake_body", "bake_head", "bake_makehuman"])
def test_a_package_that_baking_lacks_is_named(start, tmp_path, script):
    (tmp_path / "anny.py").write_text("raise ModuleNotFoundError('no', name='anny')")
    done = start(f"scripts/{script}.py", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert one_line(done) == "error: needs anny: pip install 'persona[bake]'"
