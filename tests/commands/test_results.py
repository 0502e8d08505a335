"""The warnings and the table that a run prints at its end."""

from persona.commands.results import no_gain, print_table

BETTER = {"init/fg_psnr": 20.0, "test/fg_psnr": 21.0}


def test_a_run_that_gains_says_nothing():
    assert no_gain(BETTER, "captured") == []


def test_a_run_that_loses_says_what_and_the_remedy_in_one_line():
    lost = BETTER | {"init/fg_lpips_squeeze": 0.1, "test/fg_lpips_squeeze": 0.125}
    (line,) = no_gain(lost, "captured")
    assert "fg_lpips_squeeze 0.1 before, 0.125 after" in line
    assert "fg_psnr" not in line
    assert "trainer.max_steps" in line
    assert "\n" not in line


def test_only_the_photograph_counts():
    assert no_gain({"init/fg_psnr": 20.0, "test/fg_psnr": 19.0}, "test") == []


def test_without_lpips_psnr_alone_decides():
    assert len(no_gain({"init/fg_psnr": 20.0, "test/fg_psnr": 19.0}, "captured")) == 1


def test_the_table_has_a_column_for_the_start_where_it_is_known(capsys):
    metrics = {"test/fg_psnr": 21.0, "test/base_fg_psnr": 18.5}
    print_table(metrics | {"init/fg_psnr": 20.0})
    told = capsys.readouterr().out
    head, row = (next(line for line in told.splitlines() if n in line) for n in ("metric", "fg_"))
    assert head.split()[1::2] == ["metric", "init", "base", "refined"]
    assert row.split()[1::2] == ["fg_psnr", "20", "18.5", "21"]
    print_table(metrics)
    told = capsys.readouterr().out
    head, row = (next(line for line in told.splitlines() if n in line) for n in ("metric", "fg_"))
    assert head.split()[1::2] == ["metric", "base", "refined"]
    assert row.split()[1::2] == ["fg_psnr", "18.5", "21"]
