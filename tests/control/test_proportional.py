"""Oracle: the rule of arXiv 2509.23383 in other words, over every number of texts, and cases worked by hand."""

import pytest

from paribus.control.proportional import adjusted


@pytest.mark.parametrize(
    ("num_texts", "found", "wanted", "expected"),
    [
        (64, 0.10, 0.20, 128),  # half of what is wanted
        (64, 0.20, 0.10, 32),  # twice of it
        (64, 0.10, 0.10, 64),
        (64, 0.1049, 0.1, 64),  # within 5 %: on both sides nothing changes
        (64, 0.0951, 0.1, 64),
        (64, 0.1051, 0.1, 32),
        (64, 0.0949, 0.1, 128),
        (256, 0.0, 0.1, 512),  # the largest change
        (257, 0.0, 0.1, 513),  # 514 would be 257 more
        (512, 0.5, 0.1, 256),
        (513, 0.5, 0.1, 257),
        (8192, 0.5, 0.1, 7936),
        (8000, 0.0, 0.1, 8192),  # 8256 would be too many
        (8192, 0.0, 0.1, 8192),
        (1, 0.5, 0.1, 1),  # never none
        (3, 0.5, 0.1, 1),
        (2, 0.5, 0.1, 1),
        (64, 0.3, 0.0, 32),  # at step 0 nothing is wanted yet
        (64, 0.0, 0.0, 64),
    ],
)
def test_cases_worked_by_hand(num_texts, found, wanted, expected):
    assert adjusted(num_texts, found, wanted) == expected


def test_a_number_of_texts_leaves_its_bounds_or_changes_too_much():
    for num_texts in range(1, 8193):
        up, same, down = (adjusted(num_texts, found, 0.2) for found in (0.1, 0.2, 0.4))
        assert up == min(num_texts + min(num_texts, 256), 8192)
        assert same == num_texts
        assert down == max(num_texts - min((num_texts + 1) // 2, 256), 1)
        assert all(1 <= n <= 8192 and abs(n - num_texts) <= 256 for n in (up, same, down))
