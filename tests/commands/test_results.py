"""What a run says of itself."""

from persona.commands.results import no_gain

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
