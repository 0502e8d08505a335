import numpy as np
import pytest

from persona.data.numbers import number, plain_array, whole_number
from persona.errors import UserError


@pytest.mark.parametrize(
    "value",
    [100, 100.0, "100", np.float32(100), np.array(100.0), np.array([100]), np.array(b"100")],
)
def test_one_number_however_it_is_held(value):
    found = number("a.npz: rate", value, above=0)
    assert found == 100 and type(found) is float


@pytest.mark.parametrize(
    "value", ["abc", None, True, [1, 2], [], np.inf, np.nan, -1, 0, 1001, {"a": 1}, "many\nlines"]
)
def test_what_is_no_number_of_the_range(value):
    with pytest.raises(UserError) as caught:
        number("fps", value, above=0, high=1000, remedy="export it again")
    message = str(caught.value)
    assert message.startswith("fps=") and "\n" not in message
    assert message.endswith("give a number above 0, at most 1000; export it again")


def test_bounds_are_in_the_range():
    assert number("x", 1, low=1, high=3) == 1 and number("x", 3, low=1, high=3) == 3
    assert whole_number("x", 1, low=1, high=3) == 1 and whole_number("x", 3, low=1, high=3) == 3
    with pytest.raises(UserError, match="above 1"):
        number("x", 1, above=1)


def test_whole_numbers():
    assert whole_number("seed", 3.0) == 3 and type(whole_number("seed", 3.0)) is int
    for value, wanted in ((1.5, "whole"), (-1, "at least 0"), ("x", "a whole number")):
        with pytest.raises(UserError, match=f"seed={value}: give .*{wanted}"):
            whole_number("seed", value, low=0)


def test_arrays_of_any_byte_order_become_plain():
    values = np.arange(6.0).reshape(2, 3)
    for given in (values.astype(">f8"), values.tolist(), values.astype(">i2")):
        found = plain_array("a.npz: poses", given, (-1, 3), "copy it", dtype=np.float64)
        assert found.dtype == np.dtype("=f8") and found.dtype.isnative
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["a", 1, 2]], "not an array of n x 3 numbers"),
        ([[1, 2]], "has shape 1 x 2, not n x 3"),
        (5, "has shape one number"),
        ([[1, 2, np.inf]], "not finite"),
        ([[1, 2, 1e300]], "not finite"),
        ([[1, 2], [3]], "not an array"),
    ],
)
def test_arrays_that_are_refused(value, message):
    with pytest.raises(UserError, match=message) as caught:
        plain_array("a.json: trans", value, (-1, 3), "copy it")
    assert str(caught.value).startswith("a.json: trans") and "\n" not in str(caught.value)
