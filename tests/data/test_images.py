import contextlib
import gzip
import io
import pickle
import struct

import numpy as np
import pytest

from paribus.data.images import IDX, check_images, read_images
from paribus.data.supervised import Idx, Npz
from paribus.errors import DataError

X = np.arange(5 * 6, dtype=np.uint8).reshape(5, 3, 2)
Y = np.array([0, 1, 2, 1, 0])
GOOD = {"X_train": X, "y_train": Y, "X_test": X[:2], "y_test": Y[:2]}


def npz(folder, arrays):
    np.savez_compressed(folder / "images.npz", **arrays)
    return Npz(file=str(folder / "images.npz"))


def idx(array):
    """As http://yann.lecun.com/exdb/mnist describes it."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def write_idx(folder, arrays, compress=(), dotted=False):
    for name, array in zip(IDX, arrays, strict=True):
        content = idx(array.astype(np.uint8))
        name = name.replace("-idx", ".idx") if dotted else name
        if name in compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return Idx(folder=str(folder))


def same(pictures):
    assert np.array_equal(pictures.x_train, X.reshape(5, 6))
    assert np.array_equal(pictures.x_test, X[:2].reshape(2, 6))
    assert (pictures.y_train.tolist(), pictures.y_test.tolist()) == (Y.tolist(), Y[:2].tolist())
    assert pictures.num_classes == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i2"])
@pytest.mark.parametrize(
    "names",
    [("X_train", "y_train", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"),
     ("train_images", "train_labels", "test_images", "test_labels")],
)  # fmt: skip
def test_an_npz_is_read_under_each_of_its_usual_names(tmp_path, names, dtype):
    arrays = X, Y.astype(dtype), X[:2], Y[:2].astype(dtype)
    same(read_images(npz(tmp_path, dict(zip(names, arrays, strict=True)))))


@pytest.mark.parametrize(("compress", "dotted"), [((), False), (IDX, False), (IDX[1:3], False), ((), True)])
def test_idx_files_are_read_plain_and_compressed(tmp_path, compress, dotted):
    same(read_images(write_idx(tmp_path, (X, Y, X[:2], Y[:2]), compress, dotted)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_train": None}, r"has the arrays X_test, y_test, y_train; expected X_train, y_train, X_test, y_test; or x_t"),
        ({"X_train": X.astype(float)}, r"X_train: float64 of shape \(5, 3, 2\); expected uint8 images, \(n, height, "),
        ({"X_test": X[0, 0]}, r"X_test: uint8 of shape \(2,\); expected uint8 images"),
        ({"X_test": X[:0], "y_test": Y[:0]}, r"X_test: uint8 of shape \(0, 3, 2\); expected uint8 images"),
        ({"X_test": X[:2, :2]}, r"X_test: images of \(2, 2\), but those of training are \(3, 2\)"),
        ({"y_train": Y.astype(float)}, r"y_train: float64 of shape \(5,\); expected integers, \(5,\), one for each"),
        ({"y_test": Y[:2, None]}, r"y_test: int64 of shape \(2, 1\); expected integers, \(2,\)"),
        ({"y_test": Y}, r"y_test: int64 of shape \(5,\); expected integers, \(2,\)"),
        ({"y_train": Y + 1}, r"y_train: labels from 1 to 3, 3 different ones; expected 0 .. K - 1, each at least once"),
        ({"y_train": Y * 2}, r"y_train: labels from 0 to 4, 3 different ones"),
        ({"y_train": Y - 1}, r"y_train: labels from -1 to 1"),
        ({"y_test": Y[:2] + 2}, r"y_test: labels from 2 to 3, but those of training end at 2"),
        ({"y_test": np.array([None, {}])}, r"y_test: object of shape \(2,\); expected integers, \(2,\), one for each image"),
    ],
)  # fmt: skip
def test_a_wrong_npz_is_one_line(tmp_path, change, message):
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    with pytest.raises(DataError, match=message) as caught:
        read_images(npz(tmp_path, arrays))
    assert str(caught.value).startswith(f"data.source.file: {tmp_path}/images.npz: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_train": X.astype(float)}, r"X_train: float64 of shape \(5, 3, 2\); expected uint8 images"),
        ({"y_train": None}, "has the arrays X_test, X_train, y_test; expected"),
        ({"y_test": np.array([None, {}])}, r"y_test: object of shape \(2,\)"),
        ({"X_train": np.asfortranarray(X), "y_train": Y * 2}, None),  # what labels hold is seen when they are read
    ],
)
def test_a_look_at_an_npz_sees_its_types_and_shapes_and_reads_no_image(tmp_path, change, message):
    source = npz(tmp_path, {name: array for name, array in {**GOOD, **change}.items() if array is not None})
    with pytest.raises(DataError, match=message) if message else contextlib.nullcontext():
        check_images(source)


def test_what_is_no_npz_is_one_line(tmp_path):
    file = tmp_path / "images.npz"
    source = Npz(file=str(file))
    one = io.BytesIO()
    np.save(one, X)
    whole = io.BytesIO()
    np.savez(whole, **GOOD)

    def told(look):
        with pytest.raises(DataError) as caught:
            look(source)
        return str(caught.value).removeprefix(f"data.source.file: {file}: ")

    for look in (read_images, check_images):
        assert told(look) == "no such file; expected an .npz with X_train, y_train, X_test, y_test"
        for content in (
            b"",
            b"text",
            pickle.dumps(GOOD),
            b"PK\3\4" + bytes(100),
            one.getvalue(),
            whole.getvalue()[:-30],
        ):
            file.write_bytes(content)
            assert told(look) == (
                "no .npz, which is a zip of arrays; expected one with X_train, y_train, X_test, y_test"
            )
        file.unlink()
        file.mkdir()
        assert told(look) == "a folder; expected an .npz with X_train, y_train, X_test, y_test"
        file.rmdir()


def test_no_damage_to_an_npz_gives_anything_but_the_same_images_or_one_line(tmp_path):
    """One byte after another is altered; the checksums of a zip cover the content, not all of its directory."""
    source = npz(tmp_path, GOOD)
    file = tmp_path / "images.npz"
    whole = file.read_bytes()
    told = []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        file.write_bytes(damaged)
        try:
            same(read_images(source))
        except DataError as error:
            told.append(str(error))
    assert len(told) > len(whole) / 3 / 2
    assert not [line for line in told if "\n" in line]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(X)[:-1], r"29 bytes of content, expected \(5, 3, 2\) by its header"),
        (idx(X) + b"x", r"31 bytes of content"),
        (b"\0\0\x0d\3" + idx(X)[4:], r"begins with 00 00 0d 03; expected an idx file of bytes"),
        (b"", r"begins with nothing; expected an idx file"),
        (b"\0\0\x08\3\0", r"begins with 00 00 08 03; expected an idx file"),
        (idx(X.reshape(-1)), r"uint8 of shape \(30,\); expected uint8 images"),
        (b"\0\0\x08\3" + b"\xff" * 12, r"0 bytes of content, expected \(4294967295, "),
    ],
)
def test_a_wrong_idx_file_is_one_line(tmp_path, content, message):
    source = write_idx(tmp_path, (X, Y, X[:2], Y[:2]))
    (tmp_path / IDX[0]).write_bytes(content)
    with pytest.raises(DataError, match=f"{IDX[0]}: {message}"):
        read_images(source)


def test_a_cut_or_false_gzip_is_one_line(tmp_path):
    source = write_idx(tmp_path, (X, Y, X[:2], Y[:2]), IDX)
    file = tmp_path / f"{IDX[0]}.gz"
    for content in (file.read_bytes()[:-9], b"text", b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"source.folder: \S+{IDX[0]}.gz: "):
            read_images(source)


def test_missing_idx_files_are_named(tmp_path):
    source = write_idx(tmp_path, (X, Y, X[:2], Y[:2]))
    (tmp_path / IDX[1]).unlink()
    with pytest.raises(DataError, match=f": no {IDX[1]}; expected MNIST's four files, plain or .gz"):
        read_images(source)
