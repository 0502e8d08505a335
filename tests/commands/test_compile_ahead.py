"""Kernels are compiled beside the work, once per machine, and never in its way."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from persona.commands import compile_ahead as module
from persona.commands.compile_ahead import compiled_ahead

CONF = Path(__file__).parents[2] / "conf"


class Process:
    """Stands for the process; ends with the status that the class has."""

    begun: ClassVar[list] = []
    status = 0
    pid = os.getpid()

    def __init__(self, command, stdin, stdout, stderr, env):
        assert stdin == subprocess.PIPE  # Which closes when this process ends.
        self.config, self.env = OmegaConf.load(command[-1]), env
        self.returncode, self.terminated, self.waited = None, False, False
        assert command[1:3] == ["-m", "persona.commands.compile_ahead"]
        Process.begun.append(self)
        Path(env["PERSONA_CACHE"], "kernel.cubin").write_bytes(b"code")
        Path(env["PERSONA_CACHE"], "skinning.npz").write_bytes(b"field")
        stdout.write("a stack")
        stdout.flush()

    def terminate(self):
        self.terminated = True

    def wait(self):
        assert not self.terminated
        self.waited = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.returncode = self.status


@pytest.fixture
def gpu_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(module.subprocess, "Popen", Process)
    monkeypatch.setattr(module.os, "setpriority", lambda *_: None)
    monkeypatch.setattr(module, "environment", lambda slot, jobs: dict(os.environ))
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(Process, "begun", [])
    monkeypatch.setattr(Process, "status", 0)
    return Process


def run(overrides=("+exp=photo",), height=512, width=384, to_the_end=False):
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        compiled_ahead(overrides, height, width, to_the_end),
    ):
        pass


def test_a_machine_compiles_once(gpu_machine, tmp_path):
    run()
    run()
    (process,) = gpu_machine.begun
    assert process.terminated
    source = process.config.data.source.config
    assert (source.height, source.width) == (512, 384)
    assert process.config.avatar.edge_m == 0.006  # Of +exp=photo.
    assert process.config.trainer.max_steps < 10
    assert process.config.avatar.field_resolution in range(16, 128, 16)  # Quick to build.
    # Its own cache goes with it.
    assert process.env["PERSONA_CACHE"] == process.config.subjects_dir
    assert not Path(process.config.subjects_dir).exists()
    # CUDA's kernels stay, as Triton's do.
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kernel.cubin"]
    assert len(list((tmp_path / "triton").iterdir())) == 1


def test_the_set_up_compiles_what_create_would(gpu_machine):
    script = runpy.run_path(str(CONF.parent / "scripts/compile_kernels.py"))
    script["on_gpu"]()
    (process,) = gpu_machine.begun
    assert process.waited
    run()  # As create.py with its default settings.
    assert len(gpu_machine.begun) == 1


def test_the_set_up_tells_of_kernels_that_did_not_compile(gpu_machine, caplog):
    gpu_machine.status = 1
    run()
    assert "were not compiled" not in caplog.text
    run(to_the_end=True)
    assert "kernels for this GPU were not compiled: a stack" in caplog.text


def test_other_settings_compile_again(gpu_machine):
    run()
    run(height=256)
    run(["+exp=photo", "avatar.levels=2"])
    assert len(gpu_machine.begun) == 3


@pytest.mark.parametrize("chosen", [100, 16])
def test_a_skinning_field_that_compiles_otherwise_or_is_small_stays(gpu_machine, chosen):
    run(["+exp=photo", f"avatar.field_resolution={chosen}"])
    (process,) = gpu_machine.begun
    assert process.config.avatar.field_resolution == chosen


def test_avatars_without_a_skinning_field_compile_too(gpu_machine):
    run(["+exp=exavatar_demo"])
    (process,) = gpu_machine.begun
    assert "field_resolution" not in process.config.avatar


def test_changed_kernels_compile_again(gpu_machine, tmp_path, monkeypatch):
    sources = tmp_path / "package"
    sources.mkdir()
    (sources / "some.cu").write_text("one")
    (sources / "some_triton.py").write_text("one")
    monkeypatch.setattr(module, "PACKAGE", sources)
    for name in ("none", "some.cu", "some_triton.py"):
        (sources / name).write_text("two")
        run()
        run()
    assert len(gpu_machine.begun) == 3


def test_a_cache_that_cannot_be_written_stops_nothing(gpu_machine, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "file"))
    run()
    assert "kernels are compiled anew next time" in caplog.text


def test_what_did_not_end_well_is_tried_again(gpu_machine):
    gpu_machine.status = -15
    run()
    gpu_machine.status = 0
    run()
    run()
    assert len(gpu_machine.begun) == 2


def test_an_error_ends_the_process(gpu_machine):
    with (
        pytest.raises(ZeroDivisionError),
        initialize_config_dir(str(CONF), version_base="1.3"),
        compiled_ahead(["+exp=photo"], 512, 384),
    ):
        raise ZeroDivisionError
    assert gpu_machine.begun[0].terminated


def test_no_process_where_nothing_compiles(gpu_machine, monkeypatch):
    run(["+exp=photo", "trainer.accelerator=cpu"])
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    run()
    assert not gpu_machine.begun


@pytest.mark.slow
def test_the_process_trains(tmp_path):
    from persona.commands.compose import composed

    job = tmp_path / "config.yaml"
    sizes = "data.source.config.height=64", "data.source.config.width=48"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = composed("train", ["+exp=demo", *module.SMALL, *sizes])
    config.subjects_dir, config.trainer.max_steps = str(tmp_path), 1
    job.write_text(OmegaConf.to_yaml(config))
    command = [sys.executable, "-m", "persona.commands.compile_ahead", str(job)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "config" / "metrics.json").is_file()


def test_the_process_ends_with_its_parent(tmp_path):
    (tmp_path / "config.yaml").write_text("entry: none")
    code = (
        "import sys, time; from pathlib import Path; from persona.commands import experiment;"
        "experiment.train = lambda *_: time.sleep(60);"
        "from persona.commands.compile_ahead import main; main(Path(sys.argv[1]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml")], stdin=subprocess.PIPE
    ) as process:
        process.stdin.close()
        assert process.wait(50) == 1
