"""Oracle: what is read is what was written; what is half there is refused."""

import json

import numpy as np
import pytest

from paribus.errors import RunError
from paribus.evals.results import EvalResult, WindowTable, read_result, result_path, write_result


def result() -> EvalResult:
    table = WindowTable(
        np.array([5, 2**40], np.int64),
        np.array(["cs.AI", "math.ST"]),
        np.array([1.25, np.nan], np.float32),
        {"1": np.array([1, 2], np.float32), "2-4": np.array([3, 4], np.float32)},
    )
    return EvalResult({"kind": "loss", "summary": {"loss": 0.1 + 0.2}, "matrix": [[1, 2], [3, 4]]}, table)


def test_a_result_is_read_as_it_was_written(tmp_path):
    path = write_result(tmp_path, "validation", 500, result())
    assert path == result_path(tmp_path, "validation", 500) == tmp_path / "validation/step-000500.json"
    again = read_result(path)
    assert again.record == result().record
    assert again.summary == {"loss": 0.1 + 0.2}
    for found, written in zip(again.windows[:3], result().windows[:3], strict=True):
        np.testing.assert_array_equal(found, written)
    assert again.windows.bands.keys() == {"1", "2-4"}
    np.testing.assert_array_equal(again.windows.bands["2-4"], [3, 4])


def test_two_writes_give_the_same_bytes(tmp_path):
    first, second = (write_result(tmp_path / name, "v", 1, result()) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".windows.parquet").read_bytes() == second.with_suffix(".windows.parquet").read_bytes()


def test_nothing_temporary_stays_behind(tmp_path):
    write_result(tmp_path, "v", 1, result())
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [
        "step-000001.json",
        "step-000001.windows.parquet",
    ]


def test_a_number_that_json_lacks_is_refused_and_no_record_is_left(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path, "v", 1, EvalResult({"summary": {"loss": float("nan")}}))
    assert not result_path(tmp_path, "v", 1).exists()


def test_each_key_has_its_line_and_the_whole_is_json(tmp_path):
    path = write_result(tmp_path, "v", 1, result())
    assert len(path.read_text().splitlines()) == 2 + len(result().record)
    assert json.loads(path.read_text()) == result().record


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"kind": 1'])
def test_a_damaged_record_is_named(tmp_path, content):
    path = tmp_path / "step-000001.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"step-000001\.json.*paribus eval"):
        read_result(path)
