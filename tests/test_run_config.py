"""What a run's sections refuse of one another."""

import pytest

from paribus.errors import ConfigError
from paribus.insertions.config import InsertionsConfig
from paribus.run_config import olmo_core_refusal
from tiny_runs import coins_run, token_run

OLMO2 = 'model={"kind": "architecture", "model_type": "olmo2"}'
FITTING = ("launch.engine=olmo_core", OLMO2, 'data.order={"kind": "olmo_core"}')


def test_what_olmo_core_can_do_is_accepted(tmp_path):
    _, config = token_run(
        tmp_path, *FITTING, 'train.schedule={"kind": "wsd", "decay_steps": 2}', "train.precision=bf16"
    )
    assert config.launch.engine == "olmo_core"
    assert config.launch.uses_torchrun


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("data.order.kind=olmo", r"its own order: data: \{kind: token_files, order: \{kind: olmo_core\}\} is expected"),
        ("data.mask_separators=true", "data.mask_separators: false is expected"),
        ("model.model_type=llama", "model_type olmo2, or a pretrained one; found llama"),
        ('model={"kind": "preset", "name": "tiny-neox"}', "or a pretrained one; found tiny-neox"),
        ("train.precision=fp16", "train.precision: it has fp32 and bf16, found fp16"),
        ("train.compile=true", "train.compile: false is expected"),
        ("train.gradient_checkpointing=true", "train.gradient_checkpointing and"),
        ("train.micro_batch_size=3", "train.micro_batch_size: a divisor of a rank's 8 windows is expected, found 3"),
    ],
)
def test_what_olmo_core_cannot_do_is_refused_in_one_line(tmp_path, override, found):
    with pytest.raises(ConfigError, match=f"launch.engine: olmo_core: .*{found}") as caught:
        token_run(tmp_path, *FITTING, override)
    assert len(str(caught.value).splitlines()) == 1


def test_an_experiment_that_is_left_out_is_refused_under_olmo_core(tmp_path):
    dynamic = {"kind": "dynamic", "every": 2, "controller": {"kind": "python", "call": "a:b"}}
    experiments = {"steered": dynamic, "text": {"kind": "tokens", "file": "x.jsonl"}}

    def asked(**more):
        insertions = InsertionsConfig.model_validate({"experiments": experiments, **more})
        return olmo_core_refusal(config.model_copy(update={"insertions": insertions}))

    _, config = token_run(tmp_path, *FITTING)
    assert "no insertions of kind dynamic" in str(asked())
    assert asked(without=["steered"]) is None
    assert asked(control=True) is None


def test_a_plateau_is_refused_under_olmo_core(tmp_path):
    plateau = 'train.schedule={"kind": "plateau", "evaluation": "heldout"}'
    heldout = 'evals={"heldout": {"kind": "loss", "every": 2}}'
    with pytest.raises(ConfigError, match="it has constant, linear, cosine and wsd, found plateau"):
        token_run(tmp_path, *FITTING, plateau, heldout)


def test_other_data_are_refused_under_olmo_core(tmp_path):
    with pytest.raises(ConfigError, match="its own files in its own order"):
        coins_run(tmp_path, "launch.engine=olmo_core", OLMO2)


def test_retries_of_what_torchrun_does_not_start_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"retries: only ranks that torchrun starts .*found engine: single with one"):
        coins_run(tmp_path, "launch.retries=3")
