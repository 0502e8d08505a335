"""Compiled kernels are kept for other processes."""

import pytest

from persona.modules.render import cuda_module
from persona.modules.render.cuda_module import kept_code


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What was compiled, instead of compiling it."""
    done = []

    def compile_cuda(source, name, architecture, defines):
        done.append((source, name, architecture, dict(defines)))
        return f"code {len(done)}".encode()

    monkeypatch.setattr(cuda_module, "compile_cuda", compile_cuda)
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    return done


def test_the_same_kernel_is_compiled_once(compiled, tmp_path):
    kernel = "source", "some.cu", "sm_90", {"A": 1, "B": 2}
    assert kept_code(*kernel) == kept_code(*kernel) == b"code 1"
    assert compiled == [kernel]
    assert kept_code("source", "some.cu", "sm_90", {"B": 2, "A": 1}) == b"code 1"


@pytest.mark.parametrize(
    "other",
    [
        ("other", "some.cu", "sm_90", {"A": 1}),
        ("source", "some.cu", "sm_80", {"A": 1}),
        ("source", "some.cu", "sm_90", {"A": 2}),
        ("source", "some.cu", "sm_90", {}),
    ],
)
def test_another_kernel_is_compiled(compiled, other):
    kept_code("source", "some.cu", "sm_90", {"A": 1})
    assert kept_code(*other) == b"code 2"


@pytest.mark.parametrize("damage", [b"", b"code", None])
def test_a_damaged_file_is_compiled_again(compiled, tmp_path, damage):
    kernel = "source", "some.cu", "sm_90", {}
    kept_code(*kernel)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert kept_code(*kernel) == b"code 2"
    assert kept_code(*kernel) == b"code 2"


def test_a_cache_that_cannot_be_written_stops_nothing(compiled, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "file"))
    assert kept_code("source", "some.cu", "sm_90", {}) == b"code 1"
    assert "set PERSONA_CACHE to a folder with space" in caplog.text
