import os
from pathlib import Path

import numpy as np
import pytest

from paribus.data.source import open_source, source_files, stratified
from paribus.data.supervised import Digits, Idx, Images, LinearTeacher, Npz, Polynomial, SupervisedSeeds
from paribus.errors import DataError

SEEDS = SupervisedSeeds()
DATA = os.environ.get("PARIBUS_DATA")


@pytest.fixture
def toy(tmp_path):
    """An .npz of 4 x 3 images of three classes: 30, 20 and 10 for training, the number of an image in its pixels."""
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    x = np.arange(60, dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 3), np.uint8)
    np.savez(tmp_path / "toy.npz", X_train=x, y_train=labels, X_test=x[::7], y_test=labels[::7])
    return Npz(file=str(tmp_path / "toy.npz"))


def numbers(samples):
    """The numbers of the toy's images."""
    levels = np.arange(60)
    deviation = levels.std()
    return np.rint(samples.x[:, 0] * deviation + levels.mean()).astype(int)


def test_fresh_samples_are_a_stream_apart_from_the_held_out_ones():
    source = open_source(Polynomial(num_heldout=100), SEEDS)
    assert (source.input_dim, source.output_dim, source.num_samples) == (20, 1, None)
    rows = source.rows(1000, 200)
    assert np.array_equal(rows.x[100:], source.rows(1100, 100).x)
    assert source.heldout.x.shape == (100, 20)
    assert source.heldout.y.shape == (100, 1)
    assert not np.isin(source.heldout.x[:, 0], source.rows(0, 5000).x[:, 0]).any()


def test_fixed_samples_are_the_first_of_the_stream_in_an_order_an_epoch():
    fresh, fixed = (open_source(LinearTeacher(num_samples=count), SEEDS) for count in (None, 1500))
    assert fixed.num_samples == 1500
    assert np.array_equal(fixed.samples(3).x, fresh.rows(0, 1500).x)
    assert np.array_equal(fixed.heldout.y, fresh.heldout.y)
    orders = [fixed.order(epoch) for epoch in range(3)]
    assert {order.dtype for order in orders} == {np.dtype(np.int32)}
    assert all(np.array_equal(np.sort(order), np.arange(1500)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[2], open_source(LinearTeacher(num_samples=1500), SEEDS).order(2))
    # two orders agree in one place on average, as independent ones do
    assert sum(np.sum(orders[0] == fixed.order(epoch)) for epoch in range(1, 101)) < 150


def test_each_seed_changes_its_own_thing_alone():
    config = Polynomial(num_samples=50, num_heldout=10)
    base, data, teacher, weights = (
        open_source(config, SupervisedSeeds(**{name: 1} if name else {})) for name in ("", "data", "teacher", "weights")
    )
    assert np.array_equal(base.samples(0).x, teacher.samples(0).x)
    assert not np.array_equal(base.samples(0).y, teacher.samples(0).y)
    assert not np.array_equal(base.samples(0).x, data.samples(0).x)
    assert not np.array_equal(base.order(0), data.order(0))
    assert np.array_equal(base.order(0), teacher.order(0))
    assert np.array_equal(base.samples(0).y, weights.samples(0).y)


def test_digits_hold_out_a_fifth_of_each_class():
    source = open_source(Images(), SEEDS)
    classes = source.samples(0).y.sum(0), source.heldout.y.sum(0)
    # counts of load_digits: 178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    assert classes[1].tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert int(classes[0].sum() + classes[1].sum()) == 1797
    assert (source.input_dim, source.output_dim, source.num_samples) == (64, 10, 1442)


def test_pixels_have_mean_zero_and_variance_one_over_the_whole_training_set(toy):
    source = open_source(Images(source=toy), SEEDS)
    x = source.samples(0).x.astype(np.float64)
    assert abs(x.mean()) < 1e-6
    assert abs(x.std() - 1) < 1e-6
    assert numbers(source.samples(0)).tolist() == list(range(60))
    assert numbers(source.heldout).tolist() == list(range(0, 60, 7))
    assert np.array_equal(source.samples(0).y.argmax(1), np.repeat([0, 1, 2], [30, 20, 10]))
    assert np.array_equal(source.samples(0).y.sum(1), np.ones(60))
    some = open_source(Images(source=toy, num_samples=6, num_heldout=4), SEEDS)
    assert np.array_equal(some.heldout.x, source.heldout.x[:4])  # the same scale, however few are trained on


def test_a_subset_has_equal_shares_and_stays_unless_resampled(toy):
    fixed, resampled = (
        open_source(Images(source=toy, num_samples=20, resample=resample), SEEDS) for resample in (False, True)
    )
    for epoch in range(3):
        assert resampled.samples(epoch).y.sum(0).tolist() == [7, 7, 6]
        assert numbers(fixed.samples(epoch)).tolist() == numbers(fixed.samples(0)).tolist()
    assert numbers(fixed.samples(0)).tolist() == numbers(resampled.samples(0)).tolist()
    drawn = [frozenset(numbers(resampled.samples(epoch)).tolist()) for epoch in range(40)]
    assert len(set(drawn)) == 40
    assert frozenset().union(*drawn) == frozenset(range(60))


def test_a_smaller_subset_is_part_of_a_larger_one_and_every_member_is_equally_likely():
    labels = np.repeat([0, 1], [8, 12])
    assert set(stratified(labels, 6, 0)) < set(stratified(labels, 11, 0))
    taken = np.zeros(20)
    for draw in range(300):
        taken[stratified(labels, 8, 0, draw)] += 1
    expected = 300 * np.repeat([4 / 8, 4 / 12], [8, 12])
    assert np.all(np.abs(taken - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 61}, "num_samples: 61, but there are 60 training images"),
        ({"num_samples": 40}, "num_samples: 40 take 14 of each class, but class 2 has 10"),
        ({"num_heldout": 10}, "num_heldout: 10, but there are 9 test images"),
    ],
)
def test_more_than_there_is_is_refused(toy, settings, message):
    with pytest.raises(DataError, match=message):
        open_source(Images(source=toy, **settings), SEEDS)


def test_only_files_are_part_of_what_a_run_is(toy, tmp_path):
    assert source_files(Images(source=toy)) == [Path(toy.file)]
    assert source_files(Images(source=Digits())) == source_files(Polynomial()) == []
    with pytest.raises(DataError, match="no train-images-idx3-ubyte, train-labels-idx1-ubyte, "):
        source_files(Images(source=Idx(folder=str(tmp_path))))


@pytest.mark.skipif(DATA is None, reason="PARIBUS_DATA is not set")
def test_mnist_has_its_known_mean_and_deviation():
    config = Images(source=Npz(file=f"{DATA}/data/mnist/mnist.npz"))
    source = open_source(config, SEEDS)
    assert (source.input_dim, source.output_dim, source.num_samples) == (784, 10, 60_000)
    assert source.heldout.y.sum(0).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # 0 and 255 become (0 - .1307) / .3081 and (1 - .1307) / .3081
    assert source.heldout.x.min() == pytest.approx(-0.1307 / 0.3081, abs=2e-4)
    assert source.heldout.x.max() == pytest.approx(0.8693 / 0.3081, abs=1e-3)
