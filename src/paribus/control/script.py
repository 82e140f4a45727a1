"""A script as a controller: `SCRIPT --model FOLDER --current-step S --total-steps N --in-state-file FILE
--out-state-file FILE --prompts-file FILE ARGS`. States are YAML; prompts are JSON lines with the field `text`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from paribus.control.controller import Controller, Now, Weights, checked, gathered
from paribus.data.jsonlines import json_lines
from paribus.errors import DataError, RunFailed
from paribus.insertions.dynamic import ScriptController
from paribus.insertions.payloads import Alphabet
from paribus.insertions.segments import Decision
from paribus.models.view import hf_view
from paribus.script import arguments, executable, execute


def script_controller(config: ScriptController, alphabet: Alphabet) -> Controller:
    """Raises ConfigError when the script is missing or cannot be executed."""
    called = executable(config.script)
    return Controller(gathered, lambda seen, now: _decide(config, called, alphabet, seen, now))


def _decide(config: ScriptController, called: list[str], alphabet: Alphabet, seen: Weights, now: Now) -> Decision:
    with (
        hf_view(seen.model, seen.tensors, alphabet.tokenizer, alphabet.eos) as folder,
        tempfile.TemporaryDirectory(prefix="paribus-control-") as place,
    ):
        before, after, prompts = (Path(place) / name for name in ("state_in.yaml", "state_out.yaml", "prompts.jsonl"))
        before.write_text(yaml.safe_dump(dict(now.state), sort_keys=False))
        line = [*called, "--model", str(folder)]
        line += ["--current-step", str(now.step), "--total-steps", str(now.num_steps)]
        line += ["--in-state-file", str(before), "--out-state-file", str(after), "--prompts-file", str(prompts)]
        last_words = execute(config.script, [*line, *arguments(config.args)], config.timeout_s)
        try:
            return checked(_state(after), _texts(prompts), config.script)
        except RunFailed as error:
            raise RunFailed(f"{error}; {last_words}") from None
        except (ValueError, DataError) as error:
            said = str(error).replace(f"{place}/", "")
            raise RunFailed(f"{config.script}: exit code 0, but {said}; {last_words}") from None


def _state(file: Path) -> Any:
    if not file.is_file():
        raise ValueError("it wrote no state (--out-state-file)")
    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"its state is no YAML that can be read ({' '.join(str(error).split())[:100]})") from None


def _texts(file: Path) -> list[Any]:
    """An empty file is no text; a missing one is a mistake."""
    if not file.is_file():
        raise ValueError("it wrote no prompts (--prompts-file); an empty file says that there are none")
    found = []
    for line, record in json_lines(file):
        if not isinstance(record, Mapping) or "text" not in record:
            raise ValueError(f'{file.name}:{line}: expected an object with the field "text"')
        found.append(record["text"])
    return found
