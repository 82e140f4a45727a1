import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paribus.errors import ConfigError
from paribus.launch import torchrun
from paribus.train.config import LaunchConfig

TWO = LaunchConfig(engine="ddp", num_processes=2)


def test_the_command_is_torchruns_own():
    found = torchrun.command(Path("runs/coins-12345678"), TWO)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert found == [sys.executable, *launcher, "-m", "paribus", "train", "runs/coins-12345678"]


def test_several_processes_with_the_single_engine_are_refused():
    with pytest.raises(ConfigError, match=r"launch\.num_processes: found 2 with launch\.engine: single"):
        torchrun.command(Path("runs/coins-12345678"), LaunchConfig(num_processes=2))


def test_a_rank_does_not_start_ranks_of_its_own(monkeypatch):
    assert not torchrun.is_inside()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert torchrun.is_inside()


def test_the_exit_code_of_a_rank_is_that_of_the_launcher_which_keeps_its_signal_handlers(tmp_path):
    """The interpreter of each rank reads the environment's variables as it starts."""
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from paribus import experiment; from paribus.launch import torchrun\n"
        "from paribus.train.config import LaunchConfig\n"
        "held = signal.getsignal(signal.SIGTERM)\n"
        "ddp = LaunchConfig(engine='ddp', num_processes=2)\n"
        "with experiment.variables({'PYTHONWARNINGS': 'shout'}):\n"
        "    code = torchrun.run(Path(sys.argv[1]), ddp)\n"
        "sys.exit(code if signal.getsignal(signal.SIGTERM) is held else 99)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "absent"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "paribus: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "invalid action: 'shout'" in done.stderr


@pytest.mark.slow
def test_a_variable_of_one_run_is_left_to_the_next(tmp_path):
    """A control after its treated run, in one Python process, must not inherit what the experiment sets."""
    code = (
        "import json, os, sys; from pathlib import Path\n"
        "from paribus.launch import torchrun; from tiny_runs import coins_run\n"
        "flag = {'kind': 'environment', 'variable': 'PARIBUS_TEST_FLAG', 'value': 'on'}\n"
        "ddp = ('launch.engine=ddp', 'launch.num_processes=2', 'train.budget.steps=1', 'evals={}')\n"
        "asked = 'insertions=' + json.dumps({'experiments': {'flag': flag}})\n"
        "code = torchrun.train(*coins_run(Path(sys.argv[1]), asked, *ddp))\n"
        "sys.exit(code or 99 * ('PARIBUS_TEST_FLAG' in os.environ))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "runs" / "small").iterdir()
    assert json.loads((run / "provenance.json").read_text())["attempts"][0]["environment"] == {
        "PARIBUS_TEST_FLAG": "on"
    }


def test_the_ranks_of_olmo_core_meet_at_a_free_port_from_29501_on():
    with socket.socket() as held:
        held.bind(("", torchrun.free_port()))
        held.listen()
        taken = held.getsockname()[1]
        assert taken >= 29501
        assert torchrun.free_port() > taken
        assert torchrun.free_port(taken) == torchrun.free_port()
