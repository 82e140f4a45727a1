"""Against a real S3 server: what is uploaded, what a broken transfer leaves, and when local files may go."""

import functools
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import botocore.session
import pytest

from paribus import s3
from paribus.errors import MissingExtra, RemoteError, RunError
from paribus.remote import pull, push
from paribus.rundir import RunDir
from paribus.s3 import PART
from seaweed import BUCKET, KEY, READER, READER_SECRET, SECRET, Seaweed

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    yield server
    server.kill()


@pytest.fixture(scope="module", autouse=True)
def _one_loader() -> Iterator[None]:
    """Reading the description of the S3 API costs 80 ms a client: once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture
def url(request: pytest.FixtureRequest, server: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of the test's own, with credentials in the environment and nothing else that could hold some."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return f"s3://{BUCKET}/{request.node.name}/deep"


def written(folder: Path, sizes: dict[str, int], seed: int = 0) -> Path:
    random = Random(seed)
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        whole, rest = divmod(size, PART)  # the generator makes no more than 256 MiB at once
        (folder / name).write_bytes(b"".join(random.randbytes(n) for n in (*[PART] * whole, rest)))
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def objects(server: Seaweed, url: str) -> dict[str, int]:
    prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
    page = server.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"].removeprefix(prefix): item["Size"] for item in page.get("Contents", ())}


def key(url: str, name: str) -> dict[str, str]:
    return {"Bucket": BUCKET, "Key": f"{url.removeprefix(f's3://{BUCKET}/')}/{name}"}


def refusal(*arguments: object, error: type[Exception] = RemoteError, call: object = push, **options: object) -> str:
    """The one line in which a transfer is refused, within 30 s."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        call(*arguments, progress=False, **options)  # type: ignore[operator]
    assert time.monotonic() - began < 30
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what arrives ------------------------------------------------------------------------------------------------------


def test_a_pulled_folder_differs_from_the_pushed_one(server: Seaweed, url: str, tmp_path: Path) -> None:
    sizes = {"config.json": 99, "a/b/c.bin": 1, "empty": 0, "a b+ü%20&=.txt": 7}
    sizes |= {"part": PART, "part_and_1": PART + 1, "parts": 2 * PART}
    folder = written(tmp_path / "store", sizes)
    sent = push(folder, url, progress=False)
    assert sent[1:] == (len(sizes), sum(sizes.values()), len(sizes), sum(sizes.values()), 0)
    assert objects(server, url).keys() == sizes.keys() | {"FILES.json"}
    assert server.client.get_object(**key(url, "a/b/c.bin"))["Body"].read() == (folder / "a/b/c.bin").read_bytes()
    got = pull(url, tmp_path / "new" / "copy", progress=False)
    assert got[1:] == (len(sizes), sum(sizes.values()), len(sizes) - 1, sum(sizes.values()), 0)  # nothing of the empty
    assert contents(tmp_path / "new" / "copy") == contents(folder)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]
    again = push(folder, url, progress=False)  # by the names that the server gives to objects of 0, 1, 2 and more parts
    assert (again.num_moved, again.bytes_moved) == (0, 0)


def test_a_push_again_sends_what_did_not_change_or_keeps_what_is_gone(
    server: Seaweed, url: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "run", {"metrics.jsonl": 100, "checkpoints/1/w": 200, "checkpoints/2/w": 300})
    push(folder, url, progress=False)
    written(folder, {"metrics.jsonl": 150, "checkpoints/3/w": 400}, seed=1)
    (folder / "checkpoints/1/w").unlink()
    sent = push(folder, url, progress=False)
    assert (sent.num_moved, sent.bytes_moved) == (2, 550)
    pull(url, tmp_path / "copy", progress=False)
    assert contents(tmp_path / "copy") == contents(folder)


def test_links_inside_are_followed_or_links_outside_are_dropped(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"wandb/run-1/log": 10})
    (folder / "wandb/latest").symlink_to("run-1")
    (folder / "wandb/log").symlink_to("run-1/log")
    assert push(folder, url, progress=False).num_files == 1
    (folder / "checkpoints").symlink_to(tmp_path)
    assert "checkpoints: a link that leads out of the folder" in refusal(folder, url)
    (folder / "checkpoints").unlink()
    assert push(folder, url, delete_local=True, progress=False).num_deleted == 1
    assert not folder.exists()


# --- transfers that broke off ------------------------------------------------------------------------------------------


def test_a_server_killed_in_a_push_costs_files_or_sends_them_twice(server: Seaweed, url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {f"checkpoints/{step}": MIB for step in range(40)})
    before = contents(folder)

    def kill_after_the_first_objects() -> None:
        while len(objects(server, url)) < 3:
            time.sleep(0.001)
        server.kill()

    killer = threading.Thread(target=kill_after_the_first_objects)
    killer.start()
    try:
        line = refusal(folder, url, delete_local=True)
    finally:
        killer.join()
        server.start()
    assert "does not answer" in line
    assert "the same command goes on from here" in line
    assert contents(folder) == before
    there = objects(server, url)
    assert 3 <= len(there) < 40
    assert f"{len(there)} files of an upload that was never finished" in refusal(url, tmp_path / "copy", call=pull)
    sent = push(folder, url, delete_local=True, progress=False)
    assert (sent.num_moved, sent.bytes_moved) == (40 - len(there), (40 - len(there)) * MIB)
    assert not folder.exists()
    pull(url, tmp_path / "copy", progress=False)
    assert contents(tmp_path / "copy") == before


def test_parts_of_a_large_file_are_sent_twice(server: Seaweed, url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "store", {"tokens.bin": 2 * PART + 5})
    body = (folder / "tokens.bin").read_bytes()
    upload = {**key(url, "tokens.bin"), "UploadId": ""}
    upload["UploadId"] = server.client.create_multipart_upload(**key(url, "tokens.bin"))["UploadId"]
    server.client.upload_part(**upload, PartNumber=1, Body=body[:PART])
    server.client.upload_part(**upload, PartNumber=3, Body=b"other")  # of a file that was here before
    assert push(folder, url, progress=False).bytes_moved == PART + 5
    assert server.client.get_object(**key(url, "tokens.bin"))["Body"].read() == body
    assert "Uploads" not in server.client.list_multipart_uploads(Bucket=BUCKET)


def test_a_pull_fetches_twice_or_keeps_what_does_not_belong(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "store", {"a": 1000, "b": 2000, "c": 3000, "d": 4000, "e/f": 5000})
    push(folder, url, progress=False)
    growing = written(tmp_path / ".copy.partial", {"stray": 5, "c": 1000, "d": 4001})  # c and d are not what is wanted
    (growing / "a").write_bytes((folder / "a").read_bytes())
    (growing / "b").write_bytes((folder / "b").read_bytes()[:500])
    got = pull(url, tmp_path / "copy", progress=False)
    assert (got.num_moved, got.bytes_moved) == (4, 1500 + 3000 + 4000 + 5000)
    assert contents(tmp_path / "copy") == contents(folder)


def test_two_pulls_write_into_one_folder(url: str, tmp_path: Path) -> None:
    push(written(tmp_path / "store", {"a": 10}), url, progress=False)
    with RunDir(tmp_path / ".copy.partial").lock():
        assert "in use by process" in refusal(url, tmp_path / "copy", error=RunError, call=pull)


@pytest.mark.slow
def test_a_server_killed_in_a_pull_leaves_a_folder_or_costs_what_was_fetched(
    server: Seaweed, url: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "store", {f"{number}.bin": 12 * MIB for number in range(20)})
    push(folder, url, progress=False)
    growing = tmp_path / ".copy.partial"

    def kill_after_the_first_files() -> None:
        while sum(path.stat().st_size for path in growing.rglob("*.bin")) < 40 * MIB:
            time.sleep(0.001)
        server.kill()

    killer = threading.Thread(target=kill_after_the_first_files)
    killer.start()
    try:
        assert "does not answer" in refusal(url, tmp_path / "copy", call=pull)
    finally:
        killer.join()
        server.start()
    assert not (tmp_path / "copy").exists()
    kept = sum(path.stat().st_size for path in growing.rglob("*.bin"))
    assert 40 * MIB <= kept < 240 * MIB
    assert pull(url, tmp_path / "copy", progress=False).bytes_moved == 240 * MIB - kept
    assert contents(tmp_path / "copy") == contents(folder)


@pytest.mark.slow
def test_a_killed_push_sends_a_large_file_from_its_beginning(server: Seaweed, url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "store", {"tokens.bin": 40 * PART})
    command = [sys.executable, "-m", "paribus", "push", str(folder), url]
    pusher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts: list[object] = []
    while len(parts) < 3:
        for upload in server.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
            parts = server.client.list_parts(**key(url, "tokens.bin"), UploadId=upload["UploadId"]).get("Parts", [])
    pusher.send_signal(signal.SIGKILL)
    assert pusher.wait() == -signal.SIGKILL
    assert objects(server, url) == {}
    assert push(folder, url, progress=False).bytes_moved <= 37 * PART
    pull(url, tmp_path / "copy", progress=False)
    assert contents(tmp_path / "copy") == contents(folder)


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_files_are_deleted_where_the_upload_is_refused(
    server: Seaweed, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "run", {"a": 10})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "refused the S3 credentials (SignatureDoesNotMatch)" in refusal(folder, url, delete_local=True)
    assert "refused the S3 credentials (SignatureDoesNotMatch)" in refusal(url, tmp_path / "copy", call=pull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    assert "refused the S3 credentials (InvalidAccessKeyId)" in refusal(folder, url, delete_local=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    assert "refused PutObject (AccessDenied" in refusal(folder, url, delete_local=True)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" in refusal(folder, url, delete_local=True)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no S3 credentials; set AWS_ACCESS_KEY_ID and" in refusal(folder, url, delete_local=True)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refusal(folder, url, delete_local=True)
    assert contents(folder).keys() == {"a"}
    assert objects(server, url) == {}


def test_missing_buckets_and_places_look_like_empty_ones(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"a": 10})
    assert "has no bucket 'nowhere'" in refusal(folder, "s3://nowhere/run", delete_local=True)
    assert "has no bucket 'nowhere'" in refusal("s3://nowhere/run", tmp_path / "copy", call=pull)
    assert "Invalid bucket name" in refusal(folder, "s3://no where/run")
    assert "nothing there" in refusal(url, tmp_path / "copy", call=pull)
    for wrong in ("bucket/run", "s3:/bucket/run", "s3://", "https://bucket/run"):
        assert "expected s3://BUCKET/PREFIX" in refusal(folder, wrong)
    assert "no folder; expected a store or a run directory" in refusal(tmp_path / "none", url)
    (tmp_path / "void").mkdir()
    assert "no files here" in refusal(tmp_path / "void", url)
    assert contents(folder).keys() == {"a"}
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
def test_an_endpoint_that_refuses_connections_hangs(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"a": 10})
    line = refusal(folder, url, endpoint_url="http://127.0.0.1:1", delete_local=True)
    assert "http://127.0.0.1:1 does not answer" in line
    assert "127.0.0.1" in refusal(folder, url, endpoint_url="127.0.0.1:1")
    assert contents(folder).keys() == {"a"}


@pytest.mark.slow
def test_an_endpoint_that_is_silent_hangs(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"a": 10})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # the queue is full: further connections get no answer at all
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        assert "does not answer (ConnectTimeoutError)" in refusal(folder, url, endpoint_url=f"http://127.0.0.1:{port}")
        for one in waiting:
            one.close()


def test_a_run_in_use_is_pushed_half_way(server: Seaweed, url: str, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "one", {"STATUS.json": 5})
    written(tmp_path / "runs" / "two", {"metrics.jsonl": 10})
    with RunDir(tmp_path / "runs" / "two").lock():
        for folder in (tmp_path / "runs" / "two", tmp_path / "runs"):
            assert "in use by process" in refusal(folder, url, error=RunError, delete_local=True)
    assert contents(tmp_path / "runs").keys() == {"one/STATUS.json", "two/metrics.jsonl"}
    assert objects(server, url) == {}
    push(tmp_path / "runs", url, delete_local=True, progress=False)
    assert not (tmp_path / "runs").exists()


def test_another_store_or_run_takes_the_place(url: str, tmp_path: Path) -> None:
    push(written(tmp_path / "a", {"manifest.json": 10}, seed=1), f"{url}/store", progress=False)
    other = written(tmp_path / "b", {"manifest.json": 10}, seed=2)
    assert "holds another folder" in refusal(other, f"{url}/store", delete_local=True)
    run = tmp_path / "run"
    run.mkdir()
    config = "name: k4\nseeds: {order: 0}\ndata: {store: here, window: 9}\ntrack: {wandb: null}\n"
    for text in (config, config.replace("here", "there"), config.replace("null", "{project: p}")):
        (run / "config.yaml").write_text(text)
        push(run, f"{url}/run", progress=False)
    (run / "config.yaml").write_text(config.replace("order: 0", "order: 1"))
    assert "holds another folder" in refusal(run, f"{url}/run", delete_local=True)
    pull(f"{url}/run", tmp_path / "copy", progress=False)
    assert (tmp_path / "copy/config.yaml").read_text() == config.replace("null", "{project: p}")


def test_a_run_whose_inputs_moved_looks_like_another(url: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "provenance.json").write_text(json.dumps({"config": {"name": "k4", "data": {"files": "0" * 64}}}))
    for place in ("here", "there"):
        (run / "config.yaml").write_text(f"name: k4\ndata: {{files: [{place}/tokens.npy]}}\n")
        push(run, f"{url}/run", progress=False)
    (run / "provenance.json").write_text(json.dumps({"config": {"name": "k4", "data": {"files": "1" * 64}}}))
    assert "holds another folder" in refusal(run, f"{url}/run")


def test_a_file_takes_the_name_of_the_listing(url: str, tmp_path: Path) -> None:
    assert "FILES.json: this name is taken" in refusal(written(tmp_path / "run", {"FILES.json": 3}), url)


def test_the_library_is_missing_and_the_error_does_not_name_the_extra(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    line = refusal(written(tmp_path / "run", {"a": 3}), url, error=MissingExtra)
    assert "botocore is not installed; pip install 'paribus[s3]'" in line


# --- what was altered --------------------------------------------------------------------------------------------------


def test_an_altered_object_gets_into_a_folder(server: Seaweed, url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "store", {"a": 1000, "b": 1000, "c": 1000})
    push(folder, url, progress=False)
    server.client.put_object(**key(url, "b"), Body=b"x" * 1000)
    assert "/b: altered after its upload (SHA-256" in refusal(url, tmp_path / "copy", call=pull)
    assert not (tmp_path / "copy").exists()
    server.client.put_object(**key(url, "b"), Body=b"x" * 999)
    assert "/b: 999 bytes, FILES.json says 1,000 bytes" in refusal(url, tmp_path / "copy", call=pull)
    server.client.delete_object(**key(url, "b"))
    assert "/b: missing, FILES.json says 1,000 bytes" in refusal(url, tmp_path / "copy", call=pull)
    assert push(folder, url, progress=False).bytes_moved == 1000
    assert pull(url, tmp_path / "copy", progress=False).bytes_moved == 1000
    assert contents(tmp_path / "copy") == contents(folder)


def test_a_listing_reaches_outside_the_folder(server: Seaweed, url: str, tmp_path: Path) -> None:
    push(written(tmp_path / "store", {"a": 4}), url, progress=False)
    listing = json.loads(server.client.get_object(**key(url, "FILES.json"))["Body"].read())
    for path in ("../a", "/a", "x/../../a"):
        listing["files"][0]["path"] = path
        server.client.put_object(**key(url, "FILES.json"), Body=json.dumps(listing).encode())
        assert "files.0.path" in refusal(url, tmp_path / "new" / "copy", call=pull)
    server.client.put_object(**key(url, "FILES.json"), Body=b"[")
    assert "not a list that `paribus push` wrote" in refusal(url, tmp_path / "new" / "copy", call=pull)
    assert not (tmp_path / "new").exists()


def test_local_files_are_deleted_though_the_server_does_not_have_them(
    server: Seaweed, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "run", {"a": 1000, "b": 1000})
    put = s3.Prefix.put

    def put_while_somebody_else_does(prefix: s3.Prefix, path: str, body: bytes) -> str:
        if path == "FILES.json":  # after the upload, before the deletion
            server.client.put_object(**key(url, "b"), Body=b"x" * 1000)
        return put(prefix, path, body)

    with monkeypatch.context() as patch:
        patch.setattr(s3.Prefix, "put", put_while_somebody_else_does)
        assert "/b: altered after its upload" in refusal(folder, url, delete_local=True)
    assert contents(folder).keys() == {"a", "b"}
    assert push(folder, url, delete_local=True, progress=False).num_moved == 1
    assert server.client.get_object(**key(url, "b"))["Body"].read() != b"x" * 1000


@pytest.mark.parametrize("when", ["a", "FILES.json"])  # before its own upload, and after it
def test_a_file_that_changes_meanwhile_is_deleted_or_half_an_update_looks_complete(
    when: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "run", {"a": 1000, "parts": PART + 1})
    push(folder, url, progress=False)
    written(folder, {"a": 1001, "parts": PART + 2})
    new = contents(folder)
    put = s3.Prefix.put

    def put_while_somebody_writes(prefix: s3.Prefix, path: str, body: bytes) -> str:
        if path == when:
            with (folder / "parts").open("r+b") as file:
                file.write(b"new")
        return put(prefix, path, body)

    monkeypatch.setattr(s3.Prefix, "put", put_while_somebody_writes)
    assert "parts: changed" in refusal(folder, url, delete_local=True)
    assert contents(folder).keys() == {"a", "parts"}
    if when == "a":
        assert "an upload that was never finished" in refusal(url, tmp_path / "copy", call=pull)
    else:
        pull(url, tmp_path / "copy", progress=False)
        assert contents(tmp_path / "copy") == new


def test_a_pull_changes_a_folder_that_is_there(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"a": 1000, "b": 1000})
    push(folder, url, progress=False)
    assert pull(url, folder, progress=False).num_moved == 0
    for changed in ({"b": 1000}, {"c": 5}):  # the first: same names and sizes
        written(folder, changed, seed=3)
        before = contents(folder)
        assert f"there already, not as in {url} (" in refusal(url, folder, call=pull)
        assert contents(folder) == before
    assert "no folder" in refusal(url, folder / "a", call=pull)
    assert contents(folder) == before
    (tmp_path / "empty").mkdir()
    pull(url, tmp_path / "empty", progress=False)
    assert contents(tmp_path / "empty").keys() == {"a", "b"}


def test_a_full_device_leaves_half_a_folder(url: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "store", {"a": 10, "b": 3 * MIB})
    push(folder, url, progress=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    try:
        line = refusal(url, tmp_path / "copy", error=RunError, call=pull)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "copy: no space left on the device" in line
    assert not (tmp_path / "copy").exists()
    pull(url, tmp_path / "copy", progress=False)
    assert contents(tmp_path / "copy") == contents(folder)


# --- settings ----------------------------------------------------------------------------------------------------------


def test_the_dotenv_is_not_read_or_overrules_the_environment(
    server: Seaweed, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "run", {"a": 10})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    lines = ("# keys", f"export AWS_ACCESS_KEY_ID={KEY}", f"AWS_SECRET_ACCESS_KEY='{SECRET}' # secret", "")
    Path(".env").write_text("\n".join([*lines, f'AWS_ENDPOINT_URL="{server.endpoint_url}"', "OTHER=1"]))
    assert push(folder, url, progress=False).num_moved == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "Invalid endpoint: nonsense" in refusal(folder, url)
    assert push(folder, url, endpoint_url=server.endpoint_url, progress=False).num_moved == 0
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)  # takes no secret from there
    assert "AWS_SECRET_ACCESS_KEY" in refusal(folder, url)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("AWS_REGION=eu-west-1", "eu-west-1"),
        ("  export AWS_REGION = eu-west-1  # here", "eu-west-1"),
        ("AWS_REGION='a # b'", "a # b"),
        ('AWS_REGION="a=b"', "a=b"),
        ("AWS_REGION=a+/b==", "a+/b=="),
        ("AWS_REGION=", ""),
        ("#AWS_REGION=x", None),
        ("REGION=x", None),
    ],
)
def test_a_dotenv_line_is_misread(line: str, value: str | None, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FIRST=1\n{line}\n")
    assert s3.read_dotenv(tmp_path / ".env", {}).get("AWS_REGION") == value
    assert s3.read_dotenv(tmp_path / ".env", {"AWS_REGION": "mine"}) == {}
    assert s3.read_dotenv(tmp_path / "none", {}) == {}
