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


def test_the_exit_code_of_a_rank_is_that_of_the_launcher_and_its_environment_begins_with_python(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from paribus.launch import torchrun; from paribus.train.config import LaunchConfig\n"
        "sys.exit(torchrun.run(Path(sys.argv[1]), LaunchConfig(engine='ddp', num_processes=2), {'PYTHONWARNINGS': 'shout'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "absent"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "paribus: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "invalid action: 'shout'" in done.stderr  # the interpreter of each rank read the variable as it started
