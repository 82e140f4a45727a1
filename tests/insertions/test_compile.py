"""Plans: how many copies, where, and what the artefact says of itself."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from paribus.errors import PlanError
from paribus.insertions.compile import compile_plan
from paribus.insertions.config import EveryN, Explicit, InsertionsConfig, Random, Tokens, WholeBatch, Within
from paribus.insertions.payloads import Alphabet
from paribus.insertions.plan import Geometry, open_plan, verify_plan, write_plan

EOS, SIZE = 99, Geometry(batch_size=10, row_tokens=64, num_steps=300, rows_per_epoch=1000)
WORDS = Alphabet(None, 100, EOS)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """1,000 items of 1 to 8 tokens; item on line n begins with n % 90."""
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    path.write_text(
        "".join(json.dumps({"tokens": [n % 90] * (n % 8 + 1), "position": 64 * n}) + "\n" for n in range(1, 1001))
    )
    return str(path)


def plan(file, *, geometry=SIZE, seed=0, base=None, **experiments):
    made = {name: Tokens(**{"file": file, **options}) for name, options in experiments.items()}
    return compile_plan(InsertionsConfig(experiments=made), geometry, WORDS, seed, base or {})


def copies(found, name="a"):
    own = found.spans.experiment == found.experiments.index(name)
    return found.spans.item[own], found.spans.start[own] // SIZE.row_tokens


@pytest.mark.parametrize(("repetitions", "num", "most"), [(2.5, 2500, 3), (0.25, 250, 1), (1, 1000, 1), (0, 0, 0)])
def test_repetitions_are_another_number_of_copies(file, repetitions, num, most):
    found = plan(file, a={"repetitions": repetitions})
    item, _ = copies(found)
    assert len(item) == num
    assert np.bincount(item).max(initial=0) == most
    whole = int(repetitions)
    assert (np.bincount(item, minlength=1001)[1:] >= whole).all()


def test_each_items_own_number_is_ignored(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"tokens": [n], "times": n}) + "\n" for n in (0, 1, 4, 16)))
    found = plan(str(path), a={"repetitions_key": "times"})
    assert np.bincount(found.spans.item, minlength=5).tolist() == [0, 0, 1, 4, 16]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (Random(epochs=[1]), range(1000, 2000)),
        (Random(within=Within(steps=(5, 105))), range(50, 1050)),
        (Random(within=Within(tokens=(65, 64 * 900))), range(2, 900)),
        (Random(within=Within(fraction=(0.5, 1.0))), range(1500, 3000)),
        (Random(within=Within(fraction=(0.5, 1.0)), epochs=[0, 1]), range(1500, 2000)),
    ],
)
def test_copies_leave_their_part_of_the_run(file, where, rows):
    _, row = copies(plan(file, a={"where": where}))
    assert set(row.tolist()) <= set(rows)
    assert row.min() < rows.start + 0.1 * len(rows)
    assert row.max() > rows.stop - 0.1 * len(rows)


def test_every_third_step_is_missed(file):
    item, row = copies(plan(file, a={"items": (0, 4), "where": EveryN(steps=3, within=Within(steps=(30, 60)))}))
    assert sorted(zip(item.tolist(), (row // 10).tolist(), strict=True)) == [
        (line, step) for line in range(1, 5) for step in range(30, 60, 3)
    ]


def test_copies_of_an_item_come_too_close(file):
    item, row = copies(plan(file, a={"items": (0, 20), "repetitions": 25, "where": Random(min_gap_steps=12)}))
    for line in range(1, 21):
        steps = np.sort(row[item == line] // 10)
        assert len(steps) == 25
        assert np.diff(steps).min() >= 12
    with pytest.raises(
        PlanError, match=r"26 copies of line 1, at least 12 steps apart, need 301 steps, and 300 are open"
    ):
        plan(file, a={"items": (0, 1), "repetitions": 26, "where": Random(min_gap_steps=12)})


def test_two_copies_a_step_apart_at_least_share_a_step(file):
    _, row = copies(plan(file, a={"items": (0, 1), "repetitions": 300, "where": Random(min_gap_steps=1)}))
    assert sorted((row // 10).tolist()) == list(range(300))


def test_whole_batches_keep_a_token(file):
    found = plan(file, a={"items": (0, 3), "where": WholeBatch(steps=[7, 2])}, b={"repetitions": 2})
    assert found.mask(2).all()
    assert found.mask(7).all()
    rows = np.zeros((10, 64), np.int32)
    found.overlay(7, rows)
    expected = [
        [n] * (n + 1) + [EOS] * (63 - n) for n in (2, 3, 1, 2, 3, 1, 2, 3, 1, 2)
    ]  # rows 10 .. 19 of the experiment
    assert rows.tolist() == expected
    assert not {2, 7} & set((copies(found, "b")[1] // 10).tolist())


def test_explicit_places_move(file):
    found = plan(file, a={"where": Explicit(), "items": (0, 30)}, b={})
    item, _ = copies(found)
    own = found.spans.experiment == 0
    assert found.spans.start[own].tolist() == (64 * item).tolist()


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[-1]], r"line 1: the copy of 4 tokens at position -1 leaves the run of 192,000 tokens"),
        ([[192_000 - 3]], r"line 1: the copy of 4 tokens at position 191,997 leaves the run"),
        ([[61]], r"line 1: the copy of 4 tokens at position 61 crosses the end of a row of 64 tokens"),
        ([[5, 8]], r"the copies at positions 5 and 8 overlap"),
    ],
)
def test_an_impossible_place_is_planned(tmp_path, positions, message):
    path = tmp_path / "explicit.jsonl"
    path.write_text("".join(json.dumps({"tokens": [1, 2, 3, 4], "position": own}) + "\n" for own in positions))
    with pytest.raises(PlanError, match=message):
        plan(str(path), a={"where": Explicit()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"where": Random(within=Within(steps=(0, 301)))},
            r"a\.where\.within: ends at row 3,010, but the run has 3,000",
        ),
        ({"where": Random(epochs=[3])}, r"a\.where: no row of the run lies there"),
        ({"where": WholeBatch(steps=[300])}, r"a\.where\.steps: each once, below 300, is expected, found \[300\]"),
        ({"where": EveryN(steps=3), "repetitions": 2}, r"a: `every` says how often: repetitions must be 1"),
        ({"where": Explicit(), "repetitions": 2}, r"a: `explicit` says how often: repetitions must be 1"),
        (
            {"where": WholeBatch(steps=[3]), "repetitions": 0.5},
            r"a: `whole_batch` says how often: repetitions must be 1",
        ),
    ],
)
def test_a_range_outside_the_run_is_planned(file, options, message):
    with pytest.raises(PlanError, match=message):
        plan(file, a=options)


def test_an_overfull_range_drops_items(tmp_path):
    """Twelve full rows into ten: two items, two rows of tokens short; nothing is planned."""
    path = tmp_path / "full.jsonl"
    path.write_text((json.dumps({"tokens": [1] * 64}) + "\n") * 12)
    with pytest.raises(PlanError, match=r"no room .* for a: 2 items, 128 tokens \(a row has 64 tokens\)"):
        plan(str(path), a={"where": Random(within=Within(steps=(0, 1)))})


@pytest.mark.parametrize("repetitions", [1e12, 1e300])
def test_endless_repetitions_are_laid_out_in_memory(file, repetitions):
    with pytest.raises(PlanError, match=r"insertions\.experiments\.a: no room for 1e\+\d+ copies: the run has "):
        plan(file, a={"items": (0, 1), "repetitions": repetitions})


def test_independent_windows_have_epochs(file):
    with pytest.raises(PlanError, match="windows are drawn independently, so there are no epochs"):
        plan(file, geometry=SIZE._replace(rows_per_epoch=None), a={"where": Random(epochs=[0])})


def test_a_written_plan_reads_back_otherwise_or_alters_unnoticed(file, tmp_path):
    made = plan(file, a={"repetitions": 2}, b={"items": (0, 5)}, base={"data": {"store": "x"}, "batch_size": 10})
    write_plan(made, tmp_path / "plan")
    found = open_plan(tmp_path / "plan", {"data": {"store": "x"}, "batch_size": 10})
    for name, array in made.spans._asdict().items():
        np.testing.assert_array_equal(array, getattr(found.spans, name))
    assert found.fingerprint == made.fingerprint
    verify_plan(found, tmp_path / "plan")
    with pytest.raises(
        PlanError, match=r"made for another stream.*\n  data\.store: x in the plan, y now\n  batch_size: 10"
    ):
        open_plan(tmp_path / "plan", {"data": {"store": "y"}, "batch_size": 20})
    array = np.load(tmp_path / "plan" / "tokens.npy")
    array[7] += 1
    np.save(tmp_path / "plan" / "tokens.npy", array)
    with pytest.raises(PlanError, match=r"tokens\.npy: sha256 .* the plan was altered"):
        verify_plan(open_plan(tmp_path / "plan"), tmp_path / "plan")


def test_the_ledger_counts_other_copies(file, tmp_path):
    made = plan(file, a={"repetitions": 2.5}, b={"items": (0, 5)})
    write_plan(made, tmp_path / "plan")
    ledger = pq.read_table(tmp_path / "plan" / "ledger.parquet")
    columns = {name: ledger[name].to_numpy() for name in ("step", "row", "offset", "length", "item")}
    start = (columns["step"] * 10 + columns["row"]) * 64 + columns["offset"]
    np.testing.assert_array_equal(start, made.spans.start)
    np.testing.assert_array_equal(columns["length"], made.spans.length)
    names = ledger["experiment"].to_pylist()
    assert [names.count(name) for name in ("a", "b")] == [2500, 5]
    assert [row["copies"] for row in made.table()] == [2500, 5]


def test_other_processes_compile_another_plan(file):
    """The same config and seed in eight processes give the same manifest; another seed another one."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_compile as t\n"
        "print(t.plan(sys.argv[2], a={'repetitions': 2.5}, b={'items': (0, 9)}).fingerprint)"
    )
    here = __file__.rsplit("/", 1)[0]
    started = [
        subprocess.Popen([sys.executable, "-c", code, here, file], stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    prints = {process.communicate()[0].strip() for process in started}
    assert prints == {plan(file, a={"repetitions": 2.5}, b={"items": (0, 9)}).fingerprint}
    assert plan(file, seed=1, a={"repetitions": 2.5}, b={"items": (0, 9)}).fingerprint not in prints


def test_the_control_holds_a_copy(file):
    config = InsertionsConfig(experiments={"a": Tokens(file=file)}, control=True)
    assert len(compile_plan(config, SIZE, WORDS, 0, {}).spans.start) == 0
