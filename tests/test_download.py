"""Downloads from a real server that breaks off, is busy, knows no ranges, or gives something else than was promised."""

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from file_server import Site, served
from models.olmo_reference import OLMO2, random_weights, write
from paribus import experiment
from paribus.download import Download, Patience, cache_folder
from paribus.errors import ParibusError, RemoteError
from paribus.identity import resolve
from paribus.models.config import Preset, Pretrained
from paribus.models.hf import build_model
from tiny_runs import token_run

QUICK = Patience(attempts=3, first_wait_s=0.001)
CONTENT = Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARIBUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"folder/big.bin": CONTENT, "folder/small.txt": b"small"}) as site:
        yield site


def fetched(site: Site, name: str = "big.bin", **more: str) -> Path:
    with Download(f"{site.url}/folder", more, QUICK) as remote:
        path = remote.fetch(name)
        remote.finish()
        return path


def refusal(site: Site, name: str = "big.bin", **more: str) -> str:
    with pytest.raises(RemoteError) as caught:
        fetched(site, name, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_broken_transfer_begins_anew(site: Site) -> None:
    site.cut_after = 100_001
    assert fetched(site).read_bytes() == CONTENT
    assert site.sent["folder/big.bin"] == len(CONTENT)  # no byte came twice
    assert [wanted for _, wanted in site.asked] == [None, "bytes=100001-", "bytes=200002-"]
    assert fetched(site).read_bytes() == CONTENT
    assert len(site.asked) == 3  # what is there is not asked for again


@pytest.mark.parametrize("fault", ["has_ranges", "has_tags"])
def test_parts_of_two_answers_are_joined_without_a_promise_that_they_fit(site: Site, fault: str) -> None:
    setattr(site, fault, False)
    site.cut_after = 100_001
    refusal(site)
    site.cut_after = None
    assert fetched(site).read_bytes() == CONTENT
    assert not list(cache_folder().rglob("*.part*"))


def test_a_file_that_changed_in_between_is_joined_with_its_old_beginning(site: Site) -> None:
    site.cut_after = 100_001
    with Download(f"{site.url}/folder", {}, Patience(attempts=1)) as remote, pytest.raises(RemoteError):
        remote.fetch("big.bin")
    (part,) = cache_folder().rglob("*.part")
    assert part.stat().st_size == 100_001
    site.cut_after, site.files["folder/big.bin"] = None, bytes(reversed(CONTENT))
    assert fetched(site).read_bytes() == bytes(reversed(CONTENT))


def test_a_busy_server_is_given_up(site: Site) -> None:
    site.busy = 2
    assert fetched(site).read_bytes() == CONTENT
    assert len(site.asked) == 3


def test_a_busy_server_is_asked_for_ever(site: Site) -> None:
    site.busy = 99
    assert "not reached in 3 attempts (503 Service Unavailable)" in refusal(site)
    assert len(site.asked) == 3


def test_what_is_not_there_is_asked_for_again_and_again(site: Site) -> None:
    assert "folder/none.bin: not found (404)" in refusal(site, "none.bin")
    assert len(site.asked) == 1


def test_waits_do_not_double() -> None:
    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", waits.append)
        for failures in range(1, 9):
            Patience(first_wait_s=1.0, longest_wait_s=60.0).wait(failures)
    for wait, base in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert base <= wait <= 1.5 * base


def test_a_server_that_lies_is_believed(site: Site) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    site.files["folder/big.bin"] = b"lies" + CONTENT[4:]
    message = refusal(site, **{"big.bin": digest})
    assert f"{digest[:12]}... expected; the download is deleted" in message
    assert not list(cache_folder().rglob("big.bin*"))
    site.files["folder/big.bin"] = CONTENT
    assert fetched(site, **{"big.bin": digest.upper()}).read_bytes() == CONTENT


def test_the_cache_is_believed_whatever_happens_to_it(site: Site) -> None:
    path = fetched(site)
    known = json.loads((path.parent / "DOWNLOADS.json").read_text())
    assert known["files"]["big.bin"] == {"sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT)}
    path.write_bytes(b"x" + CONTENT[1:])
    assert "it was altered in the cache" in refusal(site)


def test_a_digest_of_another_file_seems_to_be_checked(site: Site) -> None:
    assert "model.sha256: bg.bin is not read" in refusal(site, **{"bg.bin": "0" * 64})


def test_a_name_leads_out_of_the_cache(site: Site) -> None:
    site.files["folder/../../../x"] = b""
    assert "lies outside" in refusal(site, "../../../x")


def test_offline_is_many_lines() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/folder"
    with Download(url, {}, QUICK) as remote, pytest.raises(RemoteError, match="offline") as caught:
        remote.fetch("a")
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)


# --- what a run reads of a URL -----------------------------------------------------------------------------------------


def files_below(folder: Path, prefix: str) -> dict[str, bytes]:
    return {f"{prefix}/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pretrained(**keys: object) -> str:
    return "model=" + json.dumps({"kind": "pretrained", **keys})


def test_a_run_depends_on_where_its_weights_came_from(site: Site, tmp_path: Path) -> None:
    """checkpoint_url and checkpoint_step of the original: `path` and `step`. By content it is the local folder."""
    folder = write(tmp_path / "step10000-unsharded", OLMO2, random_weights(OLMO2), "safetensors")
    site.files |= files_below(folder, "models/step10000-unsharded")
    there = token_run(tmp_path, pretrained(path=f"{site.url}/models/", step=10000))[1]
    also = token_run(tmp_path, pretrained(path=f"{site.url}/models/step10000-unsharded"))[1]
    here = token_run(tmp_path, pretrained(path=str(folder)))[1]
    assert resolve(there) == resolve(also) == resolve(here)
    names = {path.rpartition("/")[2] for path, _ in site.asked}
    assert names == {"config.yaml", "model.safetensors"}  # the optimizer's state is not asked for
    model = build_model(there.model, 40, 16, 0)
    assert torch.equal(model.get_input_embeddings().weight, random_weights(OLMO2)["transformer.wte.weight"])
    site.files.clear()
    asked = len(site.asked)
    assert resolve(there) == resolve(here)
    build_model(also.model, 40, 16, 0)
    assert len(site.asked) == asked  # and the server is no longer needed


def test_a_checkpoint_behind_a_url_is_continued_otherwise(site: Site, tmp_path: Path) -> None:
    first, config = token_run(tmp_path)
    experiment.run(first, config)
    site.files |= files_below(first.checkpoints / "step-000004", "run/step-000004")
    how = ("start.optimizer=continued", "start.schedule=continued", "start.data=continued", "train.budget.steps=2")
    by_url, by_url_config = token_run(tmp_path, pretrained(path=f"{site.url}/run/step-000004"), *how)
    by_path, by_path_config = token_run(tmp_path, pretrained(path=str(first.path), step=4), *how)
    assert by_url.path == by_path.path
    experiment.run(by_url, by_url_config)
    assert experiment.run(by_path, by_path_config).reason == "done already"
    site.files |= files_below(first.checkpoints / "step-000006", "run/step-000006")
    fresh, fresh_config = token_run(tmp_path, pretrained(path=f"{site.url}/run/step-000006"), "train.budget.steps=1")
    experiment.run(fresh, fresh_config)
    assert "run/step-000006/optimizer.safetensors" not in {path for path, _ in site.asked}
    ends = [run.checkpoints / "step-000006" / "model.safetensors" for run in (first, by_url)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_another_run_that_needs_more_of_a_url_changes_the_first(site: Site, tmp_path: Path) -> None:
    """A checkpoint's optimizer is part of its fingerprint, and is only fetched by the run that continues it."""
    base, config = token_run(tmp_path)
    experiment.run(base, config)
    site.files |= files_below(base.checkpoints / "step-000004", "run/step-000004")
    url = pretrained(path=f"{site.url}/run/step-000004")
    fresh, config = token_run(tmp_path, url)
    assert fresh.path == token_run(tmp_path, pretrained(path=str(base.path), step=4))[0].path
    experiment.hold(fresh, config)
    token_run(tmp_path, url, "start.optimizer=continued")
    assert "run/step-000004/optimizer.safetensors" in {path for path, _ in site.asked}
    experiment.refuse_changes(fresh, config)
    assert fresh.path == token_run(tmp_path, url)[0].path


def test_a_hugging_face_folder_behind_a_url_is_not_found(site: Site, tmp_path: Path) -> None:
    build_model(Preset(name="micro-neox"), 40, 16, 0).save_pretrained(tmp_path / "m", max_shard_size="100KB")
    site.files |= files_below(tmp_path / "m", "m")
    assert "m/model.safetensors.index.json" in site.files
    found = build_model(Pretrained(path=f"{site.url}/m"), 40, 16, 0)
    expected = build_model(Pretrained(path=str(tmp_path / "m")), 40, 16, 0).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_a_url_without_a_model_is_read(site: Site) -> None:
    with pytest.raises(ParibusError, match=r"folder/config\.yaml: not found \(404\)") as caught:
        build_model(Pretrained(path=f"{site.url}/folder"), 40, 16, 0)
    assert "\n" not in str(caught.value)
    with pytest.raises(ParibusError, match=r"model\.revision"):
        build_model(Pretrained(path=f"{site.url}/folder", revision="main"), 40, 16, 0)
