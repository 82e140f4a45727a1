"""HDF5 insertion maps: from a plan to a file and back, maps made by others, and files that are no map."""

import json
import sys

import h5py
import numpy as np
import pytest

from paribus.errors import MissingExtra, PlanError, RunError
from paribus.insertions.compile import compile_plan
from paribus.insertions.config import Hdf5, InsertionsConfig, Tokens
from paribus.insertions.hdf5 import DTYPES, read_map, write_map
from paribus.insertions.payloads import Alphabet
from paribus.insertions.plan import Geometry

SIZE = Geometry(batch_size=4, row_tokens=16, num_steps=50, rows_per_epoch=100)
WORDS = Alphabet(None, 100, 99)
INDICES = ["sequence", "batch", "position"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """200 copies of 1 to 6 tokens at random places: up to three in a row, several in a batch."""
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    path.write_text("".join(json.dumps({"tokens": [n % 90] * (n % 6 + 1)}) + "\n" for n in range(100)))
    return compiled(a=Tokens(file=str(path), repetitions=2))


def compiled(**experiments):
    return compile_plan(InsertionsConfig(experiments=experiments), SIZE, WORDS, 0, {})


def written(path, **arrays):
    """A map by hand: row 3 gets [7, 8] at offset 5 and [9] at 0, row 9 gets [1, 2, 3] at 13."""
    sound = {
        "keys": [3, 9],
        "tuple_offsets": [0, 2, 3],
        "positions": [5, 0, 13],
        "token_offsets": [0, 2, 3, 6],
        "tokens": [7, 8, 9, 1, 2, 3],
    }
    with h5py.File(path, "w") as file:
        for name, values in (sound | arrays).items():
            if values is not None:
                file[name] = values if isinstance(values, np.ndarray) else np.array(values, DTYPES[name])
    return str(path)


@pytest.mark.parametrize("index", INDICES)
def test_a_plan_comes_back_from_its_file_otherwise(plan, tmp_path, index):
    """Places and tokens of the plan; and of the plan read from a file everything, item by item."""
    write_map(plan, tmp_path / "map.h5", index)
    back = compiled(m=Hdf5(file=str(tmp_path / "map.h5"), index=index))
    for name in ("start", "offsets", "tokens"):
        np.testing.assert_array_equal(getattr(back.spans, name), getattr(plan.spans, name))
    write_map(back, tmp_path / "again.h5", index)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "map.h5").read_bytes()
    again = compiled(m=Hdf5(file=str(tmp_path / "again.h5"), index=index))
    assert again.manifest == back.manifest
    assert again.spans.item.tolist() == list(range(1, 201))


@pytest.mark.parametrize("index", INDICES)
def test_a_key_stands_for_another_place(plan, tmp_path, index):
    """Every span by its definition: coordinate (step * B + row) * S + offset = key * unit + position."""
    write_map(plan, tmp_path / "map.h5", index)
    with h5py.File(tmp_path / "map.h5") as file:
        assert {name: file[name].dtype.str for name in file} == DTYPES
        keys, ends, at = file["keys"][:], file["tuple_offsets"][:], file["positions"][:]
        bounds, tokens = file["token_offsets"][:], file["tokens"][:]
    assert (np.diff(keys) > 0).all()
    entries = {
        (int(key), int(at[e])): tokens[bounds[e] : bounds[e + 1]].tolist()
        for k, key in enumerate(keys)
        for e in range(ends[k], ends[k + 1])
    }
    expected = {}
    for n, start in enumerate(plan.spans.start.tolist()):
        step, row, offset = plan.place(start)
        key = {"sequence": (step * 4 + row, offset), "batch": (step, row * 16 + offset), "position": (start, 0)}[index]
        expected[key] = plan.spans.tokens[plan.spans.offsets[n] : plan.spans.offsets[n + 1]].tolist()
    assert entries == expected


def test_a_map_of_others_is_written_elsewhere(tmp_path):
    found = compiled(m=Hdf5(file=written(tmp_path / "map.h5"), index="sequence"))
    rows = np.zeros((4, 16), np.int32)
    found.overlay(0, rows)
    assert rows[3].tolist() == [9, 0, 0, 0, 0, 7, 8, *[0] * 9]
    assert not rows[:3].any()
    found.overlay(2, rows)
    assert rows[1].tolist() == [*[0] * 13, 1, 2, 3]
    assert found.spans.item.tolist() == [2, 1, 3]
    batches = compiled(m=Hdf5(file=written(tmp_path / "map.h5", positions=[5, 0, 61]), index="batch"))
    assert batches.spans.start.tolist() == [3 * 64, 3 * 64 + 5, 9 * 64 + 61]
    places = compiled(m=Hdf5(file=written(tmp_path / "map.h5", positions=[5, 0, 3]), index="position"))
    assert places.spans.start.tolist() == [3, 8, 12]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"positions": None},
            "no dataset 'positions'; an insertion map has keys, tuple_offsets, positions, token_offsets",
        ),
        ({"positions": np.array([5, 0, 13])}, "positions: 1 dimensions of int64 found, expected 1 of int32"),
        ({"keys": np.array([3.0, 9.0])}, "keys: 1 dimensions of float64 found, expected 1 of int64"),
        ({"tokens": np.zeros((2, 3), "<i4")}, "tokens: 2 dimensions of int32 found, expected 1 of int32"),
        ({"tuple_offsets": [0, 3]}, "tuple_offsets: 2 offsets for 2 keys, expected 3"),
        ({"tuple_offsets": [0, 2, 4]}, "tuple_offsets: must rise from 0 to 3, the number of positions"),
        ({"tuple_offsets": [1, 2, 3]}, "tuple_offsets: must rise from 0 to 3"),
        ({"token_offsets": [0, 4, 3, 6]}, "token_offsets: must rise from 0 to 6, the number of tokens"),
        ({"keys": [9, 9]}, "keys: 9 stands twice"),
    ],
)
def test_datasets_at_odds_are_read(tmp_path, arrays, message):
    with pytest.raises(PlanError, match=message) as caught:
        read_map(written(tmp_path / "map.h5", **arrays))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_map_is_read(tmp_path):
    path = tmp_path / "map.h5"
    with pytest.raises(PlanError, match=r"map\.h5: cannot be read as HDF5: .*No such file"):
        read_map(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(PlanError, match=r"map\.h5: cannot be read as HDF5: "):
        read_map(path)
    whole = tmp_path / "whole.h5"
    written(whole)
    path.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(PlanError, match=r"map\.h5: cannot be read as HDF5: ") as caught:
        read_map(path)
    assert "\n" not in str(caught.value)
    with h5py.File(path, "w") as file:
        for name in DTYPES:
            file.create_group(name)
    with pytest.raises(PlanError, match="no dataset 'keys'"):
        read_map(path)


@pytest.mark.parametrize(
    ("index", "arrays", "message"),
    [
        (
            "sequence",
            {"keys": [3, 200]},
            "entry 3: 3 tokens at position 13 of key 200: the run has 200 of index sequence",
        ),
        ("batch", {"keys": [3, 50]}, "key 50: the run has 50 of index batch"),
        ("position", {"keys": [3, 3200]}, "key 3,200: the run has 3,200 of index position"),
        ("sequence", {"keys": [-1, 9]}, "entry 1: .* of key -1: the run has 200 of index sequence"),
        ("sequence", {"keys": [3, 2**62]}, "the run has 200 of index sequence"),
        (
            "sequence",
            {"positions": [5, 0, 16]},
            "entry 3: 3 tokens at position 16 of key 9: expected a position of 0 to 15",
        ),
        ("batch", {"positions": [5, -1, 0]}, "entry 2: .* expected a position of 0 to 63"),
        (
            "sequence",
            {"positions": [5, 0, 14]},
            "m: entry 3: the copy of 3 tokens at position 158 crosses the end of a row",
        ),
        ("sequence", {"positions": [5, 6, 0]}, "the copies at positions 53 and 54 overlap"),
        ("sequence", {"token_offsets": [0, 2, 2, 6]}, "entry 2: .* no token; every entry needs at least one"),
        ("sequence", {"tokens": [7, 8, 100, 1, 2, 3]}, "entry 2: .* token ids of 0 to 99 are expected"),
        ("sequence", {"tokens": [7, 8, 9, 1, 2, -3]}, "entry 3: .* token ids of 0 to 99 are expected"),
    ],
)
def test_an_impossible_entry_is_planned(tmp_path, index, arrays, message):
    file = written(tmp_path / "map.h5", **arrays)
    with pytest.raises(PlanError, match=message):
        compiled(m=Hdf5(file=file, index=index))


def test_an_entry_longer_than_a_row_or_no_entry_is_planned(tmp_path):
    long = {"keys": [3], "tuple_offsets": [0, 1], "positions": [0], "token_offsets": [0, 17], "tokens": [1] * 17}
    with pytest.raises(PlanError, match="entry 1: 17 tokens at position 0 of key 3: a row of the stream has 16 tokens"):
        compiled(m=Hdf5(file=written(tmp_path / "map.h5", **long), index="sequence"))
    none = {"keys": [], "tuple_offsets": [0], "positions": [], "token_offsets": [0], "tokens": []}
    with pytest.raises(PlanError, match="no entries; expected at least one"):
        compiled(m=Hdf5(file=written(tmp_path / "map.h5", **none), index="sequence"))


def test_a_map_that_cannot_be_written_is_left_in_part(plan, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="cannot be written"):
        write_map(plan, tmp_path / "absent" / "map.h5", "sequence")
    huge = compile_plan(
        InsertionsConfig(experiments={"a": Hdf5(file=written(tmp_path / "map.h5"), index="sequence")}),
        Geometry(2**20, 2**12, 1),
        WORDS,
        0,
        {},
    )
    with pytest.raises(PlanError, match="positions are int32, but a batch has 4,294,967,296 tokens"):
        write_map(huge, tmp_path / "huge.h5", "batch")
    monkeypatch.setitem(sys.modules, "h5py", None)  # as where it is not installed
    for use in (lambda: read_map(tmp_path / "map.h5"), lambda: write_map(plan, tmp_path / "other.h5", "batch")):
        with pytest.raises(MissingExtra, match=r"pip install 'paribus\[hdf5\]'"):
            use()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.h5"]
