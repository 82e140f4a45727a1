import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from paribus.data.image_zips import check, prepare_images
from paribus.data.images import read_images
from paribus.data.supervised import ImageZips, Npz
from paribus.errors import DataError, StoreError

Image = pytest.importorskip("PIL.Image")
COUNTS = [7, 5, 9, 5, 6, 5, 5, 8, 5, 5]  # 60


def picture(label, index):
    """28 x 28 pixels that tell the class and the number of the image."""
    array = np.full((28, 28), 200, np.uint8)
    array[0, :4] = label, index // 256, index % 256, 255
    return array


def png(array, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


@pytest.fixture
def zips(tmp_path):
    """A function that writes the ten zips and gives their config; `order` sorts the members of a zip by their numbers."""

    def write(counts=COUNTS, order=int, folder="zips", **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        for label, count in enumerate(counts):
            with zipfile.ZipFile(tmp_path / folder / f"class_{label}_images.zip", "w") as archive:
                for index in sorted(range(count), key=order):
                    archive.writestr(f"{label}/{index:04}.png", png(picture(label, index)))
        defaults = {"num_test": 20, "out": str(tmp_path / "out"), "num_workers": 1}
        return ImageZips(kind="image_zips", folder=str(tmp_path / folder), **{**defaults, **settings})

    return write


def add(config, label, content, name="odd.png"):
    with zipfile.ZipFile(f"{config.folder}/class_{label}_images.zip", "a") as archive:
        archive.writestr(name, content)


def make(config):
    return prepare_images(config, progress=False)


def listed(pixels):
    """(label, number) of each image."""
    return [(int(row[0]), int(row[1]) * 256 + int(row[2])) for row in pixels.reshape(-1, 784)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_image_is_in_one_of_the_sets_with_its_class_in_the_shares_of_all(zips, num_workers):
    file, manifest = make(zips(num_workers=num_workers))
    pictures = read_images(Npz(file=str(file)))
    train, test = listed(pictures.x_train), listed(pictures.x_test)
    assert sorted(train + test) == [(label, index) for label in range(10) for index in range(COUNTS[label])]
    assert [label for label, _ in train] == pictures.y_train.tolist()
    assert [label for label, _ in test] == pictures.y_test.tolist()
    # 20 of 60: 2.33, 1.67, 3, 1.67, 2, 1.67, 1.67, 2.67, 1.67, 1.67; whole parts are 14, the largest remainders get 6 more
    assert np.bincount(pictures.y_test).tolist() == [2, 2, 3, 2, 2, 2, 2, 3, 1, 1]
    assert (manifest.num_train, manifest.num_test) == (40, 20)
    assert pictures.x_train[:, 4:].min() == pictures.x_train[:, 4:].max() == 200
    assert pictures.y_train[:10].tolist() == pictures.y_test[:10].tolist() == list(range(10))
    with np.load(file) as arrays:
        assert {name: arrays[name].dtype for name in arrays} == dict.fromkeys(
            ("X_train", "y_train", "X_test", "y_test"), np.uint8
        )
        assert arrays["X_train"].shape == (40, 28, 28)


def test_the_same_bytes_whatever_the_order_in_the_zips_and_the_number_of_workers(zips, tmp_path):
    first = make(zips()).file.read_bytes()
    shuffled = make(zips(order=lambda index: index * 7 % 11, folder="b", out=str(tmp_path / "b_out"), num_workers=2))
    assert shuffled.file.read_bytes() == first
    other = make(zips(out=str(tmp_path / "c_out"), seed=43)).file
    sets = [set(listed(read_images(Npz(file=str(file))).x_test)) for file in (tmp_path / "out/images.npz", other)]
    assert sets[0] != sets[1]


def test_colours_become_luma_and_what_file_systems_add_is_left_out(zips):
    config = zips()
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    add(config, 3, png(pixels), "0/first.png")
    add(config, 3, png(np.dstack([pixels, pixels[..., :1]])), "0/second.png")
    for name in ("__MACOSX/._a.png", ".DS_Store", "3/.hidden.png"):
        add(config, 3, b"x", name)
    pictures = read_images(Npz(file=str(make(config).file)))
    there = np.concatenate([pictures.x_train, pictures.x_test])
    assert len(there) == 62
    # ITU-R BT.601: the luma that Pillow documents for `L`
    luma = pixels @ np.array([299, 587, 114]) / 1000
    close = [row for row in there if np.abs(row.reshape(28, 28) - luma).max() <= 1]
    assert len(close) == 2


def test_other_sizes_are_resampled_only_when_asked(zips):
    config = zips()
    add(config, 9, png(np.full((56, 32), 77, np.uint8)))
    with pytest.raises(
        DataError, match=r"class_9_images.zip: odd.png: 32 x 56 pixels, expected 28 x 28; `resize: true`"
    ):
        make(config)
    pictures = read_images(Npz(file=str(make(config.model_copy(update={"resize": True})).file)))
    assert sum((row == 77).all() for row in np.concatenate([pictures.x_train, pictures.x_test])) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "odd.png: is no image"),
        (b"", "odd.png: is no image"),
        (png(picture(0, 0))[:-60], "odd.png: "),
        (png(np.zeros((28, 28), np.uint16)), "odd.png: pixels of mode I;16, expected 8 bits a channel"),
        (bytes(2**24 + 1), "odd.png: more than 16,777,216 bytes"),
    ],
)
def test_a_member_that_is_no_such_image_is_named_and_nothing_is_left(zips, tmp_path, content, message):
    config = zips(num_workers=1 + (content == b"text"))
    add(config, 4, content)
    with pytest.raises(DataError, match=f"class_4_images.zip: {message}") as caught:
        make(config)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zips"]


def test_zips_that_are_missing_damaged_or_empty_are_named(zips, tmp_path):
    config = zips()
    file = tmp_path / "zips" / "class_5_images.zip"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"class_5_images.zip: cannot be read as a zip: "):
        make(config)
    damaged = bytearray(whole)
    damaged[60] ^= 1  # in the first image
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"class_5_images.zip: 5/0000.png: Bad CRC-32"):
        make(config)
    zipfile.ZipFile(file, "w").close()
    with pytest.raises(DataError, match=r"class_5_images.zip: holds no images"):
        make(config)
    file.unlink()
    (tmp_path / "zips" / "class_8_images.zip").unlink()
    told = r"zips: no class_5_images.zip, class_8_images.zip; expected class_0_images.zip .. class_9_images.zip"
    with pytest.raises(DataError, match=told):
        make(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_test", [60, 10**6])
def test_a_test_set_that_leaves_nothing_is_refused(zips, num_test):
    with pytest.raises(DataError, match=rf"num_test: {num_test:,} of 60 images leave a class without training images"):
        make(zips(num_test=num_test))


def test_what_is_there_is_verified_and_made_anew_when_damaged(zips, tmp_path):
    config = zips()
    file, manifest = make(config)
    whole, made = file.read_bytes(), file.stat().st_mtime_ns
    assert make(config) == (file, manifest)
    assert file.stat().st_mtime_ns == made
    file.write_bytes(whole[:-1] + b"x")
    assert make(config) == (file, manifest)
    assert file.read_bytes() == whole
    file.unlink()
    assert make(config).file.read_bytes() == whole
    with pytest.raises(StoreError, match="made from other settings: seed: made with 42, found 7; name another folder"):
        make(config.model_copy(update={"seed": 7}))
    add(config, 2, png(picture(2, 99)))
    with pytest.raises(StoreError, match=r"made from other zips: class_2_images.zip changed; name another"):
        make(config)
    for path in (tmp_path / "zips").iterdir():
        path.unlink()
    assert make(config).file.read_bytes() == whole  # it stands for itself
    file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"no class_0_images\.zip"):
        make(config)


def test_a_folder_of_others_is_not_touched(zips, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(StoreError, match="out: exists and holds no prepared images; remove it, or name another folder"):
        make(zips())
    assert (tmp_path / "out" / "mine").read_text() == "x"


def paribus(*arguments, **other):
    return subprocess.run([sys.executable, "-m", "paribus", *arguments], capture_output=True, text=True, **other)


def test_the_command_killed_in_the_middle_starts_anew_and_ends_the_same(zips, tmp_path):
    config = zips([150] * 10, num_workers=2)
    file = tmp_path / "zips.yaml"
    file.write_text(f"kind: image_zips\nfolder: {config.folder}\nout: {config.out}\nnum_test: 250\nnum_workers: 2\n")
    process = subprocess.Popen([sys.executable, "-m", "paribus", "prepare", file], stderr=subprocess.DEVNULL)
    part = tmp_path / ".out.part"
    while not ((part / "train.raw").exists() and (part / "train.raw").stat().st_size):
        assert process.poll() is None
        time.sleep(0.002)
    children = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert part.exists()
    assert not (tmp_path / "out").exists()
    done = paribus("prepare", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/out/images.npz: 1,250 training and 250 test images, ")
    assert done.stdout.splitlines()[-1].endswith(f"data.source.file={tmp_path}/out/images.npz")
    assert not part.exists()
    again = make(config.model_copy(update={"num_test": 250, "out": str(tmp_path / "again"), "num_workers": 1}))
    assert (tmp_path / "out/images.npz").read_bytes() == again.file.read_bytes()
    assert len(children) >= 2
    assert not list(filter(is_working, children))


def workers_of(pid):
    """The processes that any thread of a process has started."""
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def is_working(pid):
    with contextlib.suppress(OSError):
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def test_a_mistake_in_the_file_is_one_line_with_exit_code_2(zips, tmp_path):
    config = zips()
    file = tmp_path / "zips.yaml"
    file.write_text(f"kind: image_zips\nfolder: {config.folder}\nout: x\nnum_tests: 20\n")
    done = paribus("prepare", file, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f'paribus: {file}:4: num_tests: unknown key of kind "image_zips", did you mean "num_test"?\n'
    (tmp_path / "zips" / "class_3_images.zip").unlink()
    file.write_text(f"kind: image_zips\nfolder: {config.folder}\nout: x\n")
    for words in ((), ("--dry-run",)):
        done = paribus("prepare", file, *words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"paribus: {file}:2: folder: {config.folder}: no class_3_images.zip; expected")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert not (tmp_path / "x").exists()


def test_a_look_at_the_zips_is_silent_about_what_prepare_would_refuse(zips, tmp_path):
    config = zips()
    check(config)
    Path(config.folder, "class_7_images.zip").write_bytes(b"text")
    with pytest.raises(DataError, match=r"^folder: \S+zips: class_7_images\.zip cannot be read as a zip"):
        check(config)
    with pytest.raises(DataError, match=r"^folder: nowhere: no such folder; expected class_0_images\.zip \.\. class_9"):
        check(config.model_copy(update={"folder": "nowhere"}))
    with pytest.raises(StoreError, match="exists and holds no prepared images"):
        check(config.model_copy(update={"out": config.folder}))


def test_a_look_at_images_that_are_there_asks_for_the_zips_or_takes_other_settings(zips, tmp_path):
    config = zips()
    make(config)
    gone = config.model_copy(update={"folder": "nowhere"})
    check(gone)
    with pytest.raises(StoreError, match="made from other settings: seed: made with 42, found 43"):
        check(gone.model_copy(update={"seed": 43}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "zips"]
