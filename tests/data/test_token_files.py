"""Token files: how they are cut into rows, in which order a run reads them, and what is refused."""

import numpy as np
import pytest
from pydantic import ValidationError

from paribus.data.batches import IGNORE
from paribus.data.config import OlmoCoreOrder, OlmoOrder, PermutationOrder, Seeds, TokenFilesData
from paribus.data.stream import build_stream, unique_tokens
from paribus.data.token_rows import row_order
from paribus.errors import DataError
from tiny_runs import token_files

S, VOCAB, EOS = 8, 40, 0
LENGTHS = {"b.npy": 5 * S + 3, "empty.npy": 0, "short.npy": S - 1, "a.npy": 12 * S, "c.npy": 6 * S + 7}
ROWS = 5 + 12 + 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return token_files(tmp_path_factory.mktemp("tokens"), LENGTHS)


def data(files, **options):
    size = {"dtype": "uint16", "sequence_length": S, "vocab_size": VOCAB, "eos": EOS}
    return TokenFilesData(**{**size, "files": [str(file) for file in files], **options})


def rows_of(files, dtype="<u2", length=S):
    """What OLMo and OLMo-core make of files: each is cut on its own, what is left at its end is dropped."""
    rows, first = [], 0
    for file in files:
        ids = np.fromfile(file, dtype)
        rows += [(first + at, ids[at : at + length].tolist()) for at in range(0, len(ids) - length + 1, length)]
        first += len(ids)
    return rows


def read(stream, steps):
    """(window id, row) of every window of these steps."""
    batches = [stream.batches(step) for step in steps]
    return [
        (int(position), [*tokens.tolist(), int(targets[-1])])
        for batch in batches
        for tokens, targets, position in zip(*batch[:3], strict=True)
    ]


def test_a_row_crosses_files_or_a_tail_is_read(files):
    stream = build_stream(data(files), Seeds(), 1)
    assert sorted(read(stream, range(ROWS))) == sorted(rows_of(files))
    assert (stream.window, stream.row_tokens, stream.vocab_size, stream.windows_per_epoch) == (S - 1, S, VOCAB, ROWS)
    assert stream.facts["tokens"] == sum(LENGTHS.values())
    assert stream.facts["tokens_dropped"] == 3 + (S - 1) + 7


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_another_width_gives_other_ids(tmp_path, dtype):
    files = token_files(tmp_path, {"a": 10 * S}, dtype)
    stream = build_stream(data(files, dtype={"<u2": "uint16", "<u4": "uint32"}[dtype]), Seeds(), 2)
    assert sorted(read(stream, range(5))) == rows_of(files, dtype)


def test_an_epoch_misses_or_repeats_a_row(files):
    """Batches of 5 cross the epochs of 23 rows; every epoch has its own order."""
    stream = build_stream(data(files), Seeds(order=3), 5)
    ids = [position for position, _ in read(stream, range(ROWS))]
    epochs = [tuple(ids[epoch * ROWS : (epoch + 1) * ROWS]) for epoch in range(5)]
    assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(position for position, _ in rows_of(files))}
    assert len(set(epochs)) == 5


def olmo_ranks(num_rows, batch_size, seed, epoch, world):
    """What each rank of OLMo trains on in an epoch with `drop_last`, by its published rule: (steps, ranks, B / W)."""
    indices = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed=seed + epoch)).shuffle(indices)
    kept = indices[: num_rows // world * world]
    own = batch_size // world
    ranks = [kept[rank::world] for rank in range(world)]
    return [[rank[at : at + own].tolist() for rank in ranks] for at in range(0, len(ranks[0]) - own + 1, own)]


def olmo_core_ranks(num_rows, batch_tokens, length, seed, epoch, world):
    """The same of OLMo-core, whose batch size counts tokens: whole batches first, then each rank's share of them."""
    instances = batch_tokens // length
    indices = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed=seed + epoch)).shuffle(indices)
    batches = indices[: instances * (num_rows // instances)].reshape(-1, instances)
    return [[batch[rank::world].tolist() for rank in range(world)] for batch in batches]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(23, 4), (24, 4), (41, 8), (9, 8)])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_trainer_would_read_other_rows(num_rows, batch_size, world):
    """Over three epochs, OLMo's from 0 and OLMo-core's from 1, rank r reads rows r, r + W, ... of each of our batches."""
    per_epoch = num_rows // batch_size
    for order, of_epoch in (
        (OlmoOrder(), lambda e: olmo_ranks(num_rows, batch_size, 6198, e, world)),
        (OlmoCoreOrder(), lambda e: olmo_core_ranks(num_rows, batch_size * 16, 16, 6198, e + 1, world)),
    ):
        ours = row_order(data(["a"], order=order), num_rows, batch_size, 6198)
        assert ours.rows_per_epoch == per_epoch * batch_size
        theirs = [step for epoch in range(3) for step in of_epoch(epoch)]
        assert len(theirs) == 3 * per_epoch
        for step, ranks in enumerate(theirs):
            rows = ours.rows(step)
            assert [rows[rank::world].tolist() for rank in range(world)] == ranks


def test_numpy_changed_the_order_of_the_trainers():
    """Recorded with numpy 2.4.6. numpy may change its shuffle in a release (NEP 19): then neither trainer's past runs can
    be replayed with that release, and this order has to be written out here."""
    order = row_order(data(["a"], order=OlmoOrder()), 10, 5, 6198)
    assert [order.rows(step).tolist() for step in range(3)] == [[2, 4, 7, 3, 8], [9, 0, 6, 1, 5], [6, 4, 1, 8, 3]]


def test_a_batch_depends_on_those_before(files):
    for order in (PermutationOrder(), OlmoOrder(), OlmoCoreOrder()):
        ordered = build_stream(data(files, order=order), Seeds(), 4)
        digests = [ordered.batches(step).digest() for step in range(20)]
        for step in (19, 3, 11, 0):
            assert build_stream(data(files, order=order), Seeds(), 4).batches(step).digest() == digests[step]
            assert ordered.batches(step).digest() == digests[step]


@pytest.mark.parametrize("order", [PermutationOrder(), OlmoOrder(), OlmoCoreOrder()])
@pytest.mark.parametrize("num_windows", [0, 8, 20, 24, 60])
def test_other_tokens_are_counted_as_read(files, order, num_windows):
    config = data(files, order=order)
    stream = build_stream(config, Seeds(order=1), 4)
    seen = {position for position, _ in read(stream, range(num_windows // 4))}
    assert unique_tokens(config, Seeds(order=1), 4, num_windows) == len(seen) * (S - 1)


def test_a_loss_is_taken_behind_a_separator(files):
    """What counts is the separator as it stands after the overlay."""

    def overlay(step, rows):
        rows[rows == EOS] = 5
        rows[:, 3] = EOS

    plain = build_stream(data(files), Seeds(), 23).batches(0)
    masked = build_stream(data(files, mask_separators=True), Seeds(), 23).batches(0)
    assert (plain.tokens == EOS).any()
    np.testing.assert_array_equal(masked.targets, np.where(plain.tokens == EOS, IGNORE, plain.targets))
    np.testing.assert_array_equal(masked.tokens, plain.tokens)
    inserted = build_stream(data(files, mask_separators=True), Seeds(), 23, overlay).batches(0)
    assert (inserted.targets[:, 3] == IGNORE).all()
    assert (inserted.targets == IGNORE).sum() == 23


def test_a_header_is_read_as_tokens(tmp_path):
    [bare] = token_files(tmp_path, {"bare.npy": 3 * S + 1})
    headed = tmp_path / "headed.npy"
    np.save(headed, np.fromfile(bare, "<u2"))
    assert sorted(read(build_stream(data([headed]), Seeds(), 1), range(3))) == rows_of([bare])
    for order in (OlmoOrder(), OlmoCoreOrder()):
        with pytest.raises(DataError, match=r"headed\.npy: begins with the header of a \.npy file, which OLMo and"):
            build_stream(data([headed], order=order), Seeds(), 1)
    np.save(headed, np.zeros((2, 20), np.int64))
    with pytest.raises(DataError, match=r"a \.npy file of 2 dimensions of int64, expected 1 of uint16"):
        build_stream(data([headed]), Seeds(), 1)
    headed.write_bytes(headed.read_bytes()[:40])
    with pytest.raises(DataError, match=r"headed\.npy: a damaged \.npy file"):
        build_stream(data([headed]), Seeds(), 1)


def test_patterns_are_read_in_another_order(tmp_path):
    made = token_files(tmp_path, {"x2.npy": S, "x1.npy": S, "y.npy": S})
    found = build_stream(data([tmp_path / "y.npy", tmp_path / "x*.npy"]), Seeds(), 1)
    assert sorted(read(found, range(3))) == rows_of([made[2], made[1], made[0]])


def test_unusable_files_are_read(tmp_path):
    good, odd, short = token_files(tmp_path, {"good": 3 * S, "odd": 3 * S, "short": S - 1})
    odd.write_bytes(odd.read_bytes()[:-1])
    cases = {
        r"^files: .*missing\.npy matches no file": data([good, tmp_path / "missing.npy"]),
        r"^files: .*odd: 47 bytes are no whole number of uint16 ids of 2 bytes": data([good, odd]),
        r"sequence_length: a row has 8 tokens, but the longest of 1 files in files has 7; choose at most 7": data(
            [short]
        ),
        r"order: an epoch of kind olmo is cut to whole batches, and 3 rows fill none of 4": data(
            [good], order=OlmoOrder()
        ),
    }
    for message, config in cases.items():
        with pytest.raises(DataError, match=message):
            build_stream(config, Seeds(), 4)


@pytest.mark.parametrize(("dtype", "wrong"), [("uint16", 40), ("uint32", 2**32 - 1)])
def test_an_id_beyond_the_vocabulary_is_trained_on(tmp_path, dtype, wrong):
    """Also one that is negative as an int32."""
    numpy = {"uint16": "<u2", "uint32": "<u4"}[dtype]
    files = token_files(tmp_path, {"a.npy": 4 * S + 2, "b.npy": 4 * S}, numpy)
    ids = np.fromfile(files[1], numpy)
    ids[2 * S + 3] = wrong
    ids.tofile(files[1])
    stream = build_stream(data(files, dtype=dtype), Seeds(), 1)
    refused = []
    for step in range(8):
        try:
            stream.batches(step)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) == 1
    assert f"b.npy: token 19 has id {wrong}, expected 0 to 39; correct data.vocab_size, or data.dtype" in refused[0]


def test_an_end_of_text_beyond_the_vocabulary_is_configured(files):
    with pytest.raises(ValidationError, match="eos: an id below vocab_size 40 is expected, found 40"):
        data(files, eos=40)
