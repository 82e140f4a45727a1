import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hub_server import hub
from pyarrow import parquet
from tokenizers import Tokenizer, models

from paribus.data.config import Fields, Folder, Hub, Jsonl, Parquet, Sample
from paribus.data.corpus import SAMPLE, Document, documents, splits
from paribus.errors import DataError, MissingExtra

RECORDS = [
    {"id": "a", "text": "one\nand two", "category": "x"},
    {"id": 7, "text": "", "category": " y\n"},
    {"id": "c", "text": "drei, größer", "category": 3},
]
EXPECTED = [
    Document("a", "one\nand two", "x", "train"),
    Document("7", "", "y", "train"),
    Document("c", "drei, größer", "3", "train"),
]


def lines(records, ending="\n"):
    return "".join(json.dumps(record) + ending for record in records).encode()


def jsonl(path, content, **fields):
    path.write_bytes(content)
    return Jsonl(files={"train": [str(path)]}, fields=Fields(**fields))


def read(source, split="train"):
    return list(documents(source, split))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("two.jsonl.gz", lambda data: gzip.compress(data[:30]) + gzip.compress(data[30:])),
        ("two.jsonl.zst", lambda data: zstandard.compress(data[:30]) + zstandard.compress(data[30:])),
        ("bom.jsonl", lambda data: b"\xef\xbb\xbf" + data),
        ("cut.jsonl", lambda data: data.rstrip()),
    ],
)
def test_jsonl_reads_the_same_whatever_the_packing(tmp_path, name, pack, ending):
    assert read(jsonl(tmp_path / name, pack(lines(RECORDS, ending)))) == EXPECTED


def test_lines_longer_than_a_block_are_read_whole_and_every_byte_is_reported(tmp_path):
    texts = ["x" * size for size in (2**18 - 40, 2**18, 5, 3 * 2**18 + 1, 0, 7)]
    source = jsonl(tmp_path / "a.jsonl", lines({"text": text} for text in texts), id=None, category=None)
    sizes: list[int] = []
    found = list(documents(source, "train", sizes.append))
    assert [document.text for document in found] == texts
    assert [document.id for document in found] == [f"train_{number}" for number in range(len(texts))]
    assert {document.category for document in found} == {"all"}
    assert sum(sizes) == (tmp_path / "a.jsonl").stat().st_size


def test_fields_are_named_and_dots_reach_inside(tmp_path):
    record = {"meta": {"key": "k", "tags": {"main": "m"}}, "body.text": "t"}
    source = jsonl(tmp_path / "a.jsonl", lines([record]), id="meta.key", text="body.text", category="meta.tags.main")
    assert read(source) == [Document("k", "t", "m", "train")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            b'{"id": "q", "body": "t"}',
            "no field 'text' (found: id, body): name it under source.fields.text",
        ),
        (
            b'{"text": "t", "category": "c"}',
            "no field 'id' (found: text, category): name it under source.fields.id, or null",
        ),
        (b'{"id": "q", "text": "t", "category": ["c"]}', "field 'category' holds a list, expected a name or a whole"),
        (b'{"id": "q", "text": "t", "category": " "}', "field 'category' holds an empty string"),
        (b'{"id": 1.5, "text": "t", "category": "c"}', "field 'id' holds the float 1.5"),
        (b'{"id": "q", "text": 3, "category": "c"}', "field 'text' holds the int 3, expected text"),
        (b'{"id": "q", "text": "\\ud800", "category": "c"}', "found '\\ud800', half a surrogate pair, expected"),
        (b"[1]", "found a list, expected an object with the field 'text'"),
        (b'{"id": "q", "text": "t"', "not JSON: Expecting ',' delimiter at column 24"),
        (b'{"id": "\xff"}', "not UTF-8: byte 0xff"),
        (b"[" * 100_000, "not JSON that can be read: nested too deeply"),
        (b"9" * 5000, "not JSON that can be read: Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_bad_record_is_one_line_with_file_and_line(tmp_path, bad, message, suffix):
    good = lines([{"id": str(number), "text": "t", "category": "c"} for number in range(16)])
    path = tmp_path / f"a.jsonl{suffix}"
    source = jsonl(path, (gzip.compress if suffix else bytes)(good + bad + b"\n" + good))
    with pytest.raises(DataError) as caught:
        read(source)
    assert str(caught.value).startswith(f"{path}:17: {message}")
    assert "\n" not in str(caught.value)


def checked_zstandard(content):
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", checked_zstandard)])
def test_a_broken_archive_is_one_line_with_file_and_line(tmp_path, suffix, pack):
    path = tmp_path / f"a.jsonl{suffix}"
    content = lines(
        [{"id": str(number), "text": hashlib.sha256(str(number).encode()).hexdigest()} for number in range(9000)]
    )
    packed = pack(content)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    for damage in (packed[:-3], packed[: len(packed) // 2], content, b"x" + packed):
        source = jsonl(path, damage, category=None)
        with pytest.raises(DataError, match=rf"a\.jsonl\{suffix}:\d+: broken (gzip|zstd): ") as caught:
            read(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=rf"a\.jsonl\{suffix}:\d+: "):
        read(jsonl(path, bytes(flipped), category=None))


def test_a_pattern_that_matches_nothing_is_an_error_and_matches_are_sorted(tmp_path, monkeypatch):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines([{"id": name, "text": name, "category": "k"}]))
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.jsonl", str(tmp_path / "[a-c].jsonl"), f"../{tmp_path.name}/*.jsonl"):
        assert [document.id for document in read(Jsonl(files={"train": [pattern]}))] == ["a", "b", "c"]
    (tmp_path / "[x].jsonl").write_bytes(lines([{"id": "x", "text": "x", "category": "k"}]))
    assert [document.id for document in read(Jsonl(files={"train": ["[x].jsonl"]}))] == ["x"]
    for pattern in ("*.json", "absent.jsonl", "/absent/*.jsonl"):
        with pytest.raises(DataError, match=r"source\.files\.train: \S+ matches no file"):
            read(Jsonl(files={"train": [pattern]}))


def test_parquet_reads_as_jsonl_does(tmp_path):
    path = tmp_path / "a.parquet"
    records = [{**record, "id": str(record["id"]), "category": str(record["category"])} for record in RECORDS]
    parquet.write_table(pyarrow.Table.from_pylist(records * 300), path, row_group_size=100)
    source = Parquet(files={"train": [str(path)]})
    sizes: list[int] = []
    assert list(documents(source, "train", sizes.append)) == EXPECTED * 300
    nested = Parquet(files={"train": [str(path)]}, fields=Fields(id=None, text="inner.text", category=None))
    parquet.write_table(pyarrow.Table.from_pylist([{"inner": {"text": "t"}}, {"inner": {"text": None}}]), path)
    assert read(nested) == [Document("train_0", "t", "all", "train"), Document("train_1", "", "all", "train")]
    with pytest.raises(DataError, match=r"a\.parquet: row 1: no field 'text' \(found: inner\): name it under source"):
        read(source)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file") as caught:
        read(source)
    assert "\n" not in str(caught.value)


def test_folders_give_split_category_and_name(tmp_path):
    for name in ("test/b/1", "train/b/1", "train/a/2", "train/a/1", "dev/a/9"):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    source = Folder(path=str(tmp_path))
    assert splits(source) == ("train", "dev", "test")
    assert read(source) == [
        Document("a/1", "text of train/a/1", "a", "train"),
        Document("a/2", "text of train/a/2", "a", "train"),
        Document("b/1", "text of train/b/1", "b", "train"),
    ]
    (tmp_path / "dev/a/9.txt").write_bytes(b"one\ntwo\xe9")
    with pytest.raises(DataError, match=r"dev/a/9\.txt:2: not UTF-8: byte 0xe9"):
        read(source, "dev")
    with pytest.raises(DataError, match=r"source\.path: no folder"):
        splits(Folder(path=str(tmp_path / "absent")))


def test_train_comes_first_whatever_the_order_of_the_config():
    assert splits(Jsonl(files={"test": ["t"], "train": ["t"], "dev": ["t"]})) == ("train", "test", "dev")
    with pytest.raises(DataError, match="expected one or more, each once"):
        splits(Hub(name="x", splits=["train", "train"]))


@pytest.fixture
def hub_dataset(tmp_path):
    """A dataset as the hub keeps it: Parquet files whose metadata name the labels, stray line ends included."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cs.AI\n", " math.AC"])}
    )
    for split, labels in {"train": [0, 1, 1], "validation": [1], "test": [0]}.items():
        texts = [f"{split} {number}" for number in range(len(labels))]
        dataset = datasets.Dataset.from_dict({"text": texts, "label": labels}, features)
        (tmp_path / "data").mkdir(exist_ok=True)
        dataset.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path


def test_hub_labels_are_names_without_white_space(hub_dataset):
    source = Hub(name=str(hub_dataset))
    assert splits(source) == ("train", "validation", "test")
    assert read(source) == [
        Document("train_0", "train 0", "cs.AI", "train"),
        Document("train_1", "train 1", "math.AC", "train"),
        Document("train_2", "train 2", "math.AC", "train"),
    ]
    assert read(source, "validation") == [Document("validation_0", "validation 0", "math.AC", "validation")]


def test_a_hub_dataset_that_cannot_be_read_is_one_line(hub_dataset, tmp_path):
    for source, split in [(Hub(name=str(tmp_path / "absent")), "train"), (Hub(name=str(hub_dataset)), "dev")]:
        with pytest.raises(DataError, match=r"source\.name: .* cannot be read: ") as caught:
            read(source, split)
        assert "\n" not in str(caught.value)


READ = """
import json, sys
from paribus.data.config import Hub, TokenizerHub
from paribus.data.corpus import documents
from paribus.data.tokenizer import load_tokenizer, vocab_size
from paribus.errors import DataError
for settings in sys.argv[1:]:
    try:
        print(json.dumps(list(documents(Hub.model_validate_json(settings), "train"))))
    except DataError as error:
        print(error)
print(vocab_size(load_tokenizer(TokenizerHub(name="owner/model"), None)))
"""


@pytest.mark.slow
def test_a_hub_repository_with_a_loading_script_is_read_from_the_hubs_own_copy(hub_dataset, tmp_path):
    """As `ccdv/arxiv-classification`, subset `no_ref`; and the tokenizer of a model."""
    table = (hub_dataset / "data/train-00000-of-00001.parquet").read_bytes()
    copy = {f"{subset}/train/0000.parquet": table for subset in ("default", "no_ref")}
    script = {"README.md": b"# papers", "papers.py": b"import datasets"}
    model = {"tokenizer.json": Tokenizer(models.WordLevel({"a": 0, "b": 1})).to_str().encode()}
    server = hub(
        {"datasets/owner/papers": {"main": script, "refs/convert/parquet": copy}, "owner/model": {"main": model}}
    )
    sources = [
        Hub(name="owner/papers", subset="no_ref"),
        Hub(name="owner/papers", subset="no_ref", revision="refs/convert/parquet"),
        Hub(name="owner/papers", subset="absent"),
    ]
    with server as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", READ, *(source.model_dump_json() for source in sources)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    first, second, third, size = done.stdout.splitlines()
    assert [Document(*document) for document in json.loads(first)] == [
        Document("train_0", "train 0", "cs.AI", "train"),
        Document("train_1", "train 1", "math.AC", "train"),
        Document("train_2", "train 2", "math.AC", "train"),
    ]
    assert second == first
    assert third.startswith("source.name: owner/papers, subset absent, split 'train' cannot be read: ")
    assert size == "2"


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'paribus\[data\]'"):
        read(Hub(name="x"))


def test_the_sample_is_balanced_split_without_overlap_small_and_as_its_readme_says():
    readme = (SAMPLE / "README.md").read_text()
    seen: Counter[str] = Counter()
    for split, per_category in (("train", 920), ("validation", 50), ("test", 100)):
        content = (SAMPLE / f"{split}.jsonl.gz").read_bytes()
        assert hashlib.sha256(content).hexdigest() in readme
        found = read(Sample(), split)
        assert set(Counter(document.category for document in found).values()) == {per_category}
        assert len({document.category for document in found[:50]}) == 5
        seen.update(document.id for document in found)
        seen.update({document.text for document in found})
    assert set(seen.values()) == {1}
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) <= 2_000_000


def test_the_script_remakes_the_sample_bit_for_bit(tmp_path):
    """From the sample itself: the documents with the smallest hashes are the same, in any order."""
    command = [sys.executable, Path(__file__).parents[2] / "scripts" / "make_sample.py"]
    for split in ("train", "validation", "test"):
        records = gzip.decompress((SAMPLE / f"{split}.jsonl.gz").read_bytes()).splitlines(keepends=True)
        (tmp_path / f"{split}.jsonl").write_bytes(b"".join(reversed(records)))
        command.append(tmp_path / f"{split}.jsonl")
    subprocess.run([*command, "--out", tmp_path / "out"], check=True, capture_output=True)
    for split in ("train", "validation", "test"):
        made, shipped = tmp_path / "out" / f"{split}.jsonl.gz", SAMPLE / f"{split}.jsonl.gz"
        assert gzip.decompress(made.read_bytes()) == gzip.decompress(shipped.read_bytes())
        assert made.read_bytes()[:8] == shipped.read_bytes()[:8]  # the header, with no time in it
