"""``scripts/weights.py``: it lists all weights, and fetches only those that are asked for."""

import runpy
from pathlib import Path

import pytest

from persona.errors import UserError
from persona.modules.diffusion.weights import REVISIONS, WEIGHTS

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
        (
            ["get", "mimic", "dir=x"],
            "no such part; give one of mimicmotion, stable_animator, champ, wan_animate, lhm_mini",
        ),
        (["get", "mimicmotion"], "dir= is not given"),
        (["get", "mimicmotion", "dir=x"], "education use only.*add licence=accepted"),
        (["get", "mimicmotion", "folder=x"], "folder=: no such option"),
    ],
)
def test_faults_are_one_line(words, said):
    with pytest.raises(UserError, match=said) as caught:
        main(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_get_puts_files_of_several_repositories_into_one_folder(name, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    part, asked = WEIGHTS[name], []

    def download(repository, path, *, revision, local_dir):
        asked.append((repository, revision))
        file = Path(local_dir) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        return str(file)

    def download_all(repository, *, revision, local_dir):
        for file in part.files:
            download(repository, file.path, revision=revision, local_dir=local_dir)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "snapshot_download", download_all)
    main(["get", name, f"dir={tmp_path}", "licence=accepted"])
    assert part.require(tmp_path, "weights") == tmp_path and len(asked) == len(part.files)
    main(["get", name, f"dir={tmp_path}", "licence=accepted"])
    assert len(asked) == len(part.files), "what is there is not fetched again"
    assert all(revision == REVISIONS.get(place, "main") for place, revision in asked)


def test_the_base_models_are_pinned():
    """By full commits. Of the generators' parts, only files other than weights are not pinned."""
    assert all(len(bytes.fromhex(commit)) == 20 for commit in REVISIONS.values())
    parts = [WEIGHTS[name] for name in ("mimicmotion", "stable_animator", "champ")]
    newest = {f.path for part in parts for f in part.files if f.revision == "main"}
    assert newest and not any(path.endswith((".json", ".safetensors", ".bin")) for path in newest)


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def download(repository, path, *, revision, local_dir):
        raise hub.errors.LocalEntryNotFoundError("offline mode is enabled")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(UserError, match="cannot be reached: offline mode is enabled"):
        main(["get", "mimicmotion", f"dir={tmp_path}", "licence=accepted"])
