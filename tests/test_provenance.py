import os
import shlex
import subprocess
import sys

import pytest

from paribus import provenance


def git(folder, *args):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", folder, *names, *args], check=True, capture_output=True)


def test_a_diff_that_is_not_utf8_stops_a_run(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file.txt").write_text("plain\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    assert provenance.code(tmp_path)["dirty"] is False
    (tmp_path / "file.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
    found = provenance.code(tmp_path)
    assert found["dirty"]
    assert "caf" in found["diff"]
    assert provenance.code(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/env/bin/paribus", "train", "my run.yaml"], "paribus train 'my run.yaml'"),
        (["/env/lib/paribus/__main__.py", "train", "run.yaml"], "python -m paribus train run.yaml"),
        (["scripts/mine.py", "7"], "python scripts/mine.py 7"),
    ],
)
def test_a_command_that_cannot_be_typed_again_is_recorded(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance.attempt()["command"] == command


def test_a_module_records_another_command_than_the_one_that_ran_it(tmp_path):
    (tmp_path / "laboratory").mkdir()
    script = "from paribus import provenance; print(provenance.attempt()['command'])"
    (tmp_path / "laboratory" / "__main__.py").write_text(script)
    command = ["-m", "laboratory", "train", "it's.yaml"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout) == ["python", *command]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_user_without_a_name_stops_a_run():
    code = "import os; from paribus import provenance; os.setuid(54321); print(provenance._user())"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "LNAME", "USERNAME")
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "54321\n"
