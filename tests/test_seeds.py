import re

import pytest

from engine.seeds import continue_seeds, format_seeds, parse_seeds
from experiments import UserError


def test_seeds_are_named_as_a_printer_takes_pages():
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7") == [7]
    assert parse_seeds("0,3,5-9") == [0, 3, 5, 6, 7, 8, 9]
    assert parse_seeds("4, 2") == [4, 2]
    assert parse_seeds("0-999") == list(range(1000))
    assert parse_seeds("4294967295") == [2**32 - 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,3", "--seeds 3,3: seed 3 is named twice; each seed is one run"),
        ("0-4,2", "--seeds 0-4,2: seed 2 is named twice"),
        ("4-0", "--seeds 4-0: the range 4-0 falls; write 0-4"),
        ("a", "--seeds a: expected seeds such as 0-4, 7 or 0,3,5-9, found 'a'"),
        ("", "--seeds : expected seeds such as 0-4"),
        ("1-2-3", "--seeds 1-2-3: expected seeds such as 0-4"),
        ("-1", "--seeds -1: expected seeds such as 0-4"),
        ("٣", "--seeds ٣: expected seeds such as 0-4"),
        ("9" * 5000, f"--seeds {'9' * 40}: expected seeds of at most 4294967295, found"),
        ("99999999999", "--seeds 99999999999: expected seeds of at most 4294967295, found 99999999999"),
        ("00000000001-0", "--seeds 00000000001-0: the range 00000000001-0 falls; write 0-1"),
        ("0" * 5000 + ",0", f"--seeds {'0' * 5000},0: seed 0 is named twice"),
        ("4294967296", "--seeds 4294967296: expected seeds of at most 4294967295, found 4294967296"),
        ("0-5000", "--seeds 0-5000: expected at most 1000 seeds, found 5001"),
        (
            "0-999,1000-1999",
            "--seeds 0-999,1000-1999: expected at most 1000 seeds; name the others in a second command",
        ),
    ],
    ids=lambda text: text[:20],
)
def test_what_names_no_seeds_is_refused(text, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        parse_seeds(text)


def test_seeds_are_written_in_the_form_in_which_they_are_read():
    for text in ("0-4", "0,3,5-9", "3-4", "0,2"):
        assert format_seeds(parse_seeds(text)) == f"seeds {text}"
    assert format_seeds([7]) == "seed 7"
    assert format_seeds([5, 0, 2, 1]) == "seeds 0-2,5"
    assert format_seeds(iter((4, 3))) == "seeds 3-4"


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([], [0, 1, 2]),
        ([0, 1], [0, 1, 2]),
        ([5, 4, 5], [4, 5, 6]),
        ([7, 0, 9, 8], [0, 7, 8]),
        ([3, 10], [3, 10, 11]),
    ],
)
def test_seeds_go_on_after_those_that_a_person_has(seeds, expected):
    assert continue_seeds(seeds, 3) == expected


def test_no_seed_comes_before_those_at_which_a_look_was_taken():
    assert continue_seeds(range(10), 10, judged=[5, 6, 7, 8, 9]) == [*range(5, 15)]
    assert continue_seeds([0, 1, 2, 7, 8, 3, 12], 7, judged=[0, 1, 2, 7, 8]) == [0, 1, 2, 7, 8, 12, 13]
