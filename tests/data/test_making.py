"""Several makers of one folder."""

import threading
import time

import pytest

from persona.data.making import final_place, one_maker, whole_folder


def test_one_makes_and_the_others_find_it_made(tmp_path):
    """Without the lock both would look before either has made it."""
    root, made = tmp_path / "subjects" / "me", []

    def prepare(name):
        with one_maker(root):
            if not root.exists():
                with whole_folder(root) as folder:
                    folder.mkdir()
                    time.sleep(0.3)
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
    """A photograph that lies in the folder that is made of it."""
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
