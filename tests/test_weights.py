"""``scripts/weights.py``: the table is check()'s own, and nothing is fetched unasked."""

import runpy
from pathlib import Path

import pytest

from persona.errors import UserError
from persona.modules.diffusion.weights import WEIGHTS

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts/weights.py"))
main = SCRIPT["main"]


def test_list_says_all_of_every_part(capsys):
    main(["list"])
    said = capsys.readouterr().out
    for part in WEIGHTS.values():
        assert f"{part.name}: " in said and part.licence in said and part.gate in said
        assert all(file.path in said and file.repository in said for file in part.files)
    assert "mimicmotion: 4.51 GB, no commercial use" in said
    assert "lhm_500m: 8.51 GB, no commercial use" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch"], "no such command; weights.py list"),
        (["get", "mimic", "dir=x"], "no such part; give one of mimicmotion, lhm_mini"),
        (["get", "mimicmotion"], "dir= is not given"),
        (["get", "mimicmotion", "dir=x"], "education use only.*add licence=accepted"),
        (["get", "mimicmotion", "folder=x"], "folder=: no such option"),
    ],
)
def test_faults_are_one_line(words, said):
    with pytest.raises(UserError, match=said) as caught:
        main(words)
    assert "\n" not in str(caught.value)


def test_get_puts_files_of_several_repositories_into_one_folder(tmp_path, monkeypatch, capsys):
    hub = pytest.importorskip("huggingface_hub")
    part, asked = WEIGHTS["mimicmotion"], []

    def download(repository, path, *, local_dir):
        asked.append((repository, path))
        file = Path(local_dir) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        return str(file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    main(["get", "mimicmotion", f"dir={tmp_path}", "licence=accepted"])
    assert part.require(tmp_path, "weights") == tmp_path and len(asked) == len(part.files)
    main(["get", "mimicmotion", f"dir={tmp_path}", "licence=accepted"])
    assert len(asked) == len(part.files), "what is there is not fetched again"


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def download(repository, path, *, local_dir):
        raise hub.errors.LocalEntryNotFoundError("offline mode is enabled")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(UserError, match="cannot be reached: offline mode is enabled"):
        main(["get", "mimicmotion", f"dir={tmp_path}", "licence=accepted"])
