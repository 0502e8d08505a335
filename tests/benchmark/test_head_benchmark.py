"""The benchmark of heads: its metrics, its table, and the reuse of finished cells."""

import csv
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from persona.benchmark.heads.cells import Cell, check_edits, plan
from persona.benchmark.heads.run import finished, first_of, next_of, unfinished
from persona.benchmark.heads.score import apart, codes_by_attribute
from persona.benchmark.heads.table import write_tables
from persona.commands.editable import EditableHead
from persona.data.io import write_json
from persona.errors import UserError
from persona.runtime.apart import results_of
from persona.types import Frame

SIDE = 8


def shown(truth, drawn):
    """A frame of a square person, and a render of it with its alpha."""
    frame = object.__new__(Frame)
    for name, value in (("image", truth[None]), ("mask", torch.ones(1, 1, SIDE, SIDE))):
        object.__setattr__(frame, name, value)
    return frame, drawn, torch.ones(1, SIDE, SIDE)


def test_an_edit_is_judged_where_it_shows():
    """The edit makes the upper half red; the render has half of that red, and a grey spot below."""
    plain, edited = torch.zeros(3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE)
    edited[0, :4] = 1
    drawn = edited / 2
    drawn[:, 6, 2] = 0.32
    found = apart([[shown(plain, plain)], [shown(edited, drawn)]])
    assert found["edit_size"] == pytest.approx(1 / 3)
    assert found["edit_error"] == pytest.approx(1 / 6)
    assert found["drift"] == pytest.approx(0.32 / (4 * SIDE))


class ThreeEdits(EditableHead):
    """Two edits of hair and one of the hat; an edit's code is its number."""

    edits = ("0000_hair_a", "0001_hat_b", "0002_hair_c")

    def __init__(self):
        pass

    def present(self, category):
        return torch.tensor([-1.0])

    def code(self, name):
        return torch.tensor([float(self.edits.index(name))])


def test_codes_are_grouped_by_attribute():
    found = codes_by_attribute(ThreeEdits())
    values = {name: [float(code) for code in codes] for name, codes in found.items()}
    assert values == {"hair": [-1, 0, 2], "hat": [-1, 1]}


def test_the_table_has_means_and_leaves_empty_what_a_system_lacks(tmp_path):
    results = [
        {"system": "perse", "person": 1, "seed": 0, "source_psnr": 20.0, "drift": 0.1,
         "source_lpips_squeeze": 0.2},
        {"system": "perse", "person": 2, "seed": 0, "source_psnr": 22.0, "drift": 0.3,
         "source_lpips_squeeze": 0.4},
        {"system": "alone", "person": 1, "seed": 0, "source_psnr": 30.0},
    ]  # fmt: skip
    write_tables(
        tmp_path, results, ["alone", "perse", "missing", "unasked"],
        {"alone": 1, "perse": 3, "missing": 3},
    )  # fmt: skip
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| system | cells | PSNR ↑ | LPIPS ↓ | drift ↓ |"
    assert lines[2] == "| alone | 1 | 30.00 |  |  |"
    assert lines[3] == "| perse | **2 of 3** | 21.00 ± 1.41 | 0.3000 ± 0.1414 | 0.2000 ± 0.1414 |"
    assert lines[4] == "| missing | **0 of 3** |  |  |  |" and not lines[5]
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert len(rows) == 3 and rows[2]["drift"] == ""


def test_a_cell_is_run_again_when_its_settings_change(tmp_path):
    one, other = (Cell("perse", 1, 0, {"steps": n}, {}) for n in (1, 2))
    assert not finished(tmp_path, one)
    write_json(tmp_path / "result.json", {"digest": one.digest})
    assert finished(tmp_path, one) and not finished(tmp_path, other)
    # The digest includes the cell that this one starts from.
    digests = {Cell("later", 1, 0, {}, {}, before=before).digest for before in (None, one, other)}
    assert len(digests) == 3


def test_cells_that_start_from_one_another_run_in_turn():
    first, alone = (Cell(name, 1, 0, {}, {}) for name in ("first", "alone"))
    second, other = (Cell(name, 1, 0, {}, {}, before=first) for name in ("second", "other"))
    third = Cell("third", 1, 0, {}, {}, before=second)
    late = Cell("late", 1, 1, {}, {})
    later = Cell("later", 1, 1, {}, {}, before=late)
    todo = [late, later, alone, first, second, other, third]
    assert first_of(todo) == [first, alone, late], "by seed, then by what starts from them"
    begun = []
    list(results_of(begun.append, first_of(todo), 1, partial(next_of, todo)))
    assert begun == [first, second, third, other, alone, late, later]
    # As if the first one were already finished.
    assert first_of([second, third]) == [second]


def test_what_lost_its_checkpoint_is_trained_again_where_others_need_it(tmp_path):
    first = Cell("first", 1, 0, {}, {})
    second, other = (Cell(name, 1, 0, {}, {}, before=first) for name in ("second", "other"))
    third = Cell("third", 1, 0, {}, {}, before=second)
    cells = [first, second, third, other]

    def finish(*finished):
        for cell in finished:
            write_json(tmp_path / "cells" / cell.name / "result.json", {"digest": cell.digest})

    finish(first, second, other)
    assert unfinished(cells, tmp_path) == [first, second, third]
    (tmp_path / "cells" / second.name / "run").mkdir()
    (tmp_path / "cells" / second.name / "run" / "last.ckpt").touch()
    assert unfinished(cells, tmp_path) == [third]
    finish(third)
    assert not unfinished(cells, tmp_path)


def test_unknown_sizes_and_systems_are_named(tmp_path):
    config = OmegaConf.create({"size": "huge", "sizes": {"quick": {}}, "only": None, "systems": {}})
    with pytest.raises(UserError, match="size=huge is unknown: choose quick"):
        plan(config, tmp_path)
    config.size, config.only, config.systems = "quick", ["gone"], {"perse": {}}
    with pytest.raises(UserError, match="no system gone; choose of perse"):
        plan(config, tmp_path)


def test_a_person_cannot_be_given_what_it_has():
    systems = {"perse": {}, "shapes": {"edits": ["nose:9"]}, "later": {"after": "shapes"}}
    given = {"people": [11, 3], "edits": ["hair:5"], "new_edit": "hat:6", "systems": systems}
    given["only"] = None
    check_edits(OmegaConf.create(given))
    for change in ({"people": [5]}, {"people": [11, 6]}, {"people": [9]}):
        with pytest.raises(UserError, match="choose people that no edit is from"):
            check_edits(OmegaConf.create(given | change))
    check_edits(OmegaConf.create(given | {"people": [9], "only": ["perse"]}))
    own = given | {"people": [9], "systems": {"perse": {}, "apart": {"new_edit": "beard:9"}}}
    with pytest.raises(UserError, match="the edit beard:9 would give"):
        check_edits(OmegaConf.create(own))
    # Its own new edit takes the place of the shared one, which is not read then.
    check_edits(OmegaConf.create(own | {"people": [6], "only": ["apart"]}))
    for name in ("shapes", "later"):
        with pytest.raises(UserError, match="choose people that no edit is from"):
            check_edits(OmegaConf.create(given | {"people": [9], "only": [name]}))
