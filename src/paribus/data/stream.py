"""From a `data:` section to the stream of batches that a run reads."""

from pathlib import Path
from typing import TYPE_CHECKING

from paribus.data.batches import Overlay, Stream, untouched
from paribus.data.config import DataConfig, Seeds, TextData, TokenFilesData

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def build_stream(data: DataConfig, seeds: Seeds, batch_size: int, overlay: Overlay = untouched) -> Stream:
    """The stream of a `data:` section; batch_size: windows of the global batch; overlay: what is written over each.

    Raises DataError when a store, a file, a category or a design cannot be used as asked."""
    match data:
        case TextData():
            from paribus.data.windows import text_stream

            return text_stream(data, seeds, batch_size, overlay)
        case TokenFilesData():
            from paribus.data.token_rows import token_stream

            return token_stream(data, seeds, batch_size, overlay)
        case _:
            from paribus.data.synthetic import synthetic_stream

            return synthetic_stream(data, seeds, batch_size, overlay)


def unique_tokens(data: DataConfig, seeds: Seeds, batch_size: int, num_windows: int) -> int | None:
    """How many different tokens the first so many windows of a run predict: for random windows, in expectation.

    None for synthetic sources, which never repeat themselves."""
    match data:
        case TextData():
            from paribus.data import windows

            return windows.unique_tokens(data, seeds, num_windows)
        case TokenFilesData():
            from paribus.data.token_rows import distinct_tokens

            return distinct_tokens(data, seeds, batch_size, num_windows)
        case _:
            return None


def tokenizer_of(data: DataConfig) -> "tuple[Tokenizer | None, int | None]":
    """What decodes the tokens of a `data:` section, and the token that begins and ends a text; None where there is none."""
    from paribus.data.store import open_store
    from paribus.data.tokenizer import read_tokenizer

    if isinstance(data, TextData):
        store = open_store(data.store)
        return store.tokenizer(), store.start_token_id
    if isinstance(data, TokenFilesData) and data.tokenizer is not None:
        return read_tokenizer(Path(data.tokenizer)), data.eos
    return None, None
