import pytest

from paribus.errors import RunError
from paribus.grid import results


@pytest.mark.parametrize("read", [results.losses, results.evaluations, results.searches])
def test_a_path_that_is_not_there_has_an_empty_table(read, tmp_path):
    with pytest.raises(RunError, match=r"^nope: no such folder; expected one with programs of the grid engine"):
        read(tmp_path, "nope")
    assert read(tmp_path).is_empty()
