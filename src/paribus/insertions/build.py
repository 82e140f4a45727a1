"""From the settings of a run to its plan, and back from a run directory: compile once, open ever after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus.data.batches import Stream
from paribus.data.config import DataConfig, TextData, TokenFilesData
from paribus.data.store import open_store
from paribus.data.tokenizer import read_tokenizer
from paribus.errors import PlanError
from paribus.insertions.compile import compile_plan
from paribus.insertions.config import InsertionsConfig
from paribus.insertions.payloads import Alphabet
from paribus.insertions.plan import Geometry, Plan, open_plan, verify_plan, write_plan


def geometry(stream: Stream, batch_size: int, num_steps: int, first_step: int = 0) -> Geometry:
    return Geometry(batch_size, stream.row_tokens, num_steps, stream.windows_per_epoch, first_step)


def alphabet(data: DataConfig, stream: Stream, eos: str | None) -> Alphabet:
    """What insertions into these data are written in. Raises PlanError when the tokenizer lacks the token `eos`."""
    if isinstance(data, TokenFilesData):
        return _of_token_files(data, eos)
    if not isinstance(data, TextData):
        if eos is not None:
            raise PlanError(f"insertions.eos: {eos!r}: data of kind {data.kind} have no tokenizer")
        return Alphabet(None, stream.vocab_size, None)
    store = open_store(data.store)
    tokenizer = store.tokenizer()
    found = store.start_token_id if eos is None else tokenizer.token_to_id(eos)
    if eos is not None and found is None:
        raise PlanError(f"insertions.eos: the tokenizer of {store.path} has no token {eos!r}")
    return Alphabet(tokenizer, stream.vocab_size, found)


def _of_token_files(data: TokenFilesData, eos: str | None) -> Alphabet:
    tokenizer = None if data.tokenizer is None else read_tokenizer(Path(data.tokenizer))
    if eos is None:
        return Alphabet(tokenizer, data.vocab_size, data.eos)
    if tokenizer is None:
        raise PlanError(f"insertions.eos: {eos!r}: data.tokenizer names no tokenizer; leave it out for data.eos")
    if (found := tokenizer.token_to_id(eos)) is None:
        raise PlanError(f"insertions.eos: the tokenizer {data.tokenizer} has no token {eos!r}")
    return Alphabet(tokenizer, data.vocab_size, found)


def prepare_plan(
    folder: Path, config: InsertionsConfig, size: Geometry, words: Alphabet, seed: int, base: Mapping[str, Any]
) -> Plan:
    """Open the plan in `folder`, every array checked by its hash, or compile and write it. `base`: what it is for, as JSON.

    Raises PlanError for a plan that was made for something else or altered, and what `compile_plan` raises."""
    if not folder.exists():
        write_plan(compile_plan(config, size, words, seed, base), folder)
        return open_plan(folder, base)
    plan = open_plan(folder, base)
    verify_plan(plan, folder)
    return plan
