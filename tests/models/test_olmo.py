"""OLMo's native checkpoints against an independent model: exact tensors both ways, equal logits, the same next update."""

import base64
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.olmo_reference import OLMO1, OLMO2, encoded, logits, random_weights, write
from paribus import experiment
from paribus.data.stream import build_stream
from paribus.errors import ConfigError, ParibusError
from paribus.hub import as_hf
from paribus.models import olmo
from paribus.models.config import Pretrained
from paribus.models.hf import build_model
from tiny_runs import token_run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("form", ["pt", "safetensors", "plain"])
@pytest.mark.parametrize("config", [OLMO2, OLMO1], ids=["olmo2", "olmo1"])
def test_a_converted_model_computes_something_else(tmp_path: Path, config: dict[str, Any], form: str) -> None:
    weights = random_weights(config)
    folder = write(tmp_path / "step7-unsharded", config, weights, form)
    model = build_model(Pretrained(path=str(folder)), vocab_size=40, window=16, seed=0).eval()
    tokens_BT = torch.randint(0, 37, (3, 32), generator=torch.Generator().manual_seed(1))
    expected = logits(weights, config, tokens_BT)
    assert expected.std() > 0.1
    with torch.no_grad():
        found = model(input_ids=tokens_BT).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [OLMO2, OLMO1], ids=["olmo2", "olmo1"])
def test_a_tensor_changes_from_native_to_hugging_face_and_back(tmp_path: Path, config: dict[str, Any]) -> None:
    weights = random_weights(config)
    folder = write(tmp_path / "step7-unsharded", config, weights, "safetensors")
    with as_hf(folder) as view:
        again = build_model(Pretrained(path=str(view)), vocab_size=40, window=16, seed=0)
    olmo.write_native(again, tmp_path / "back" / "step7-unsharded")
    names = [folder / "model.safetensors", tmp_path / "back" / "step7-unsharded" / "model.safetensors"]
    files = [load_file(name) for name in names]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    assert olmo.read_config(folder).to_dict() == olmo.read_config(names[1].parent).to_dict()


def groups_of(weights: dict[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"params": [w for w in weights.values() if w.ndim > 1], "weight_decay": 0.1},
        {"params": [w for w in weights.values() if w.ndim == 1], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_the_next_update_forgets_the_moments(tmp_path: Path, form: str) -> None:
    """Two updates of the reference, then one here from its checkpoint: the same as three of the reference."""
    train = ("train.schedule.kind=constant", "train.clip_norm=null", "train.budget.steps=1")
    settings = token_run(tmp_path, *train)[1]
    stream = build_stream(settings.data, settings.seeds, settings.train.batch_size)
    weights = {name: tensor.requires_grad_() for name, tensor in random_weights(OLMO2).items()}
    adamw = torch.optim.AdamW(groups_of(weights), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)

    def update(step: int) -> None:
        tokens, targets = (torch.from_numpy(each).long() for each in stream.batches(step)[:2])
        F.cross_entropy(logits(weights, OLMO2, tokens).flatten(0, 1), targets.flatten()).backward()
        adamw.step()
        adamw.zero_grad()

    update(0)
    update(1)
    state = adamw.state_dict()
    names = [[n for n, w in weights.items() if (w.ndim > 1) is is_matrix] for is_matrix in (True, False)]
    for group, own in zip(state["param_groups"], names, strict=True):
        group["param_names"] = own
    saved = {name: tensor.detach().clone() for name, tensor in weights.items()}
    folder = write(tmp_path / "step2-unsharded", OLMO2, saved, form, state)
    update(2)
    how = ("start.optimizer=continued", "start.data=continued")
    run, config = token_run(tmp_path, *train, *how, f'model={{"kind": "pretrained", "path": "{folder}"}}')
    experiment.run(run, config)
    model = olmo.from_hf(load_file(run.checkpoints / "step-000003" / "model.safetensors"), olmo.read_config(folder))
    for name, tensor in weights.items():
        torch.testing.assert_close(model[name], tensor.detach(), rtol=0, atol=2e-6, msg=name)
        assert (model[name] - saved[name]).abs().max() > 1e-4
    assert not (run.path / "start.tmp").exists()


class Command:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_a_file_runs_its_own_code(tmp_path: Path) -> None:
    weights = random_weights(OLMO2)
    attacks = {
        "pt": lambda folder: torch.save({**weights, "x": Command(tmp_path / "ran")}, folder / "model.pt"),
        "safetensors": lambda folder: save_file(
            {base64.urlsafe_b64encode(pickle.dumps(Command(tmp_path / "ran"))).decode(): torch.zeros(1)},
            folder / "model.safetensors",
        ),
    }
    for form, attack in attacks.items():
        folder = write(tmp_path / form / "step7-unsharded", OLMO2, weights, form)
        attack(folder)
        assert "plain" in refusal(folder)
        assert not (tmp_path / "ran").exists()


def refusal(folder: Path, **more: Any) -> str:
    with pytest.raises(ParibusError) as caught:
        build_model(Pretrained(path=str(folder), **more), vocab_size=40, window=16, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_model_is_read_than_the_config_describes(tmp_path: Path) -> None:
    weights = random_weights(OLMO2)
    lacking = {name: tensor for name, tensor in weights.items() if "1.att_proj" not in name}
    assert "transformer.blocks.1.att_proj.weight is missing" in refusal(write(tmp_path / "a", OLMO2, lacking, "plain"))
    assert "has no place" in refusal(write(tmp_path / "b", OLMO2 | {"n_layers": 1}, weights, "plain"))
    assert "rows" in refusal(write(tmp_path / "c", OLMO2 | {"mlp_hidden_size": 42}, weights, "plain"))
    for key, value in {"alibi": True, "residual_dropout": 0.1, "clip_qkv": 8.0, "block_type": "llama"}.items():
        assert f"model.{key} is {value}" in refusal(write(tmp_path / key, OLMO2 | {key: value}, weights, "plain"))
    folder = write(tmp_path / "d", OLMO2, weights, "plain")
    (folder / "model.safetensors").unlink()
    assert "incomplete" in refusal(folder)
    (folder / "config.yaml").write_text("model: 3\n")
    assert "not the config of an OLMo checkpoint" in refusal(folder)


def test_a_step_of_a_series_is_guessed(tmp_path: Path) -> None:
    for step in (1000, 2000):
        write(tmp_path / f"step{step}-unsharded", OLMO2, random_weights(OLMO2, step), "plain")
    model = build_model(Pretrained(path=str(tmp_path), step=2000), vocab_size=40, window=16, seed=0)
    assert torch.equal(model.get_input_embeddings().weight, random_weights(OLMO2, 2000)["transformer.wte.weight"])
    assert "those of the steps 1000, 2000 are there" in refusal(tmp_path, step=3000)
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        build_model(Pretrained(path=str(tmp_path)), vocab_size=40, window=16, seed=0)


def test_a_safe_file_is_passed_over_for_the_other(tmp_path: Path) -> None:
    folder = write(tmp_path / "step7-unsharded", OLMO2, random_weights(OLMO2), "safetensors")
    (folder / "model.pt").write_bytes(b"never read")
    olmo.read_model(folder)
    assert encoded("transformer.wte.weight") in load_file(folder / "model.safetensors")


def test_another_architecture_is_written_natively(tmp_path: Path) -> None:
    from paribus.models.config import Preset

    with pytest.raises(ConfigError, match="has no native OLMo form"):
        olmo.write_native(build_model(Preset(name="micro-neox"), 40, 16, 0), tmp_path / "step1-unsharded")
    assert not list(tmp_path.iterdir())
