"""Making a folder: several processes at once, interruptions and what they leave."""

import logging
import threading
from pathlib import Path

import pytest
from processes import until

from persona.data.making import final_place, one_maker, whole_folder


def test_one_makes_and_the_others_find_it_made(tmp_path, caplog):
    """The first one makes it while all others wait, or they would see that it is absent."""
    caplog.set_level(logging.INFO)
    root, made = tmp_path / "subjects" / "me", []

    def prepare(name):
        with one_maker(root):
            if not root.exists():
                with whole_folder(root) as folder:
                    folder.mkdir()
                    until(lambda: caplog.text.count("waiting for") == 2, "two that wait", 10)
                    (folder / "maker").write_text(name)
                made.append(name)

    threads = [threading.Thread(target=prepare, args=(str(i),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1 and (root / "maker").read_text() == made[0]


def test_an_error_leaves_what_was_there(tmp_path):
    root = tmp_path / "me"
    root.mkdir()
    (root / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(root) as folder:
        folder.mkdir()
        (folder / "half").touch()
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["me"]
    assert [p.name for p in root.iterdir()] == ["old"]


def test_the_new_replaces_the_old_and_what_a_kill_has_left(tmp_path):
    root = tmp_path / "me"
    for folder in (root, tmp_path / ".me.12345678.making"):
        folder.mkdir()
        (folder / "old").touch()
    with whole_folder(root) as folder:
        folder.mkdir()
        (folder / "new").touch()
        assert [p.name for p in root.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["me"]
    assert [p.name for p in root.iterdir()] == ["new"]


def test_what_is_not_replaced_stays(tmp_path):
    """For example, a photograph inside the subject folder that is made from it."""
    root = tmp_path / "me"
    (root / "generated_1").mkdir(parents=True)
    for name in ("photo.jpg", "subject.json"):
        (root / name).write_text("old")
    with whole_folder(root, ("generated_*", "subject.json")) as folder:
        folder.mkdir()
        (folder / "sheet.png").touch()
        assert final_place(folder) == root == final_place(root)
    assert sorted(p.name for p in root.iterdir()) == ["photo.jpg", "sheet.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["me"]


def test_a_neighbour_with_a_longer_name_is_left_alone(tmp_path):
    """Making ``me`` removes no temporary folder of ``me.2`` or ``me[1]``."""
    others = [tmp_path / ".me.2.12345678.making", tmp_path / ".me[1].12345678.making"]
    for folder in others:
        folder.mkdir()
    for name in ("me", "me[1]"):
        with whole_folder(tmp_path / name) as folder:
            folder.mkdir()
    assert others[0].is_dir() and not others[1].exists()


def test_what_a_kill_between_the_swaps_has_left_is_put_back(tmp_path):
    root, old = tmp_path / "me", tmp_path / ".me.12345678.old"
    old.mkdir()
    (old / "photo.jpg").write_text("mine")
    with pytest.raises(RuntimeError), whole_folder(root, ("sheet.png",)):
        raise RuntimeError
    assert (root / "photo.jpg").read_text() == "mine" and not old.exists()
    # A kill a moment later: the new folder exists, but the photo is not yet in it.
    old.mkdir()
    (root / "photo.jpg").rename(old / "photo.jpg")
    with whole_folder(root, ("sheet.png",)) as folder:
        folder.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["me"]
    assert (root / "photo.jpg").read_text() == "mine"


def test_a_swap_that_fails_is_undone(tmp_path, monkeypatch):
    root = tmp_path / "me"
    root.mkdir()
    (root / "old").touch()
    rename = Path.rename

    def fails(self, target):
        if self.name.endswith(".making"):
            raise OSError("no room")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no room"), whole_folder(root) as folder:
        folder.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["me"] and (root / "old").exists()
