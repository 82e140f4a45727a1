"""Tokenizers: from a file, a folder or the hub, or trained on the corpus; and what is known about each."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paribus.data.config import Tokenizer as TokenizerConfig
from paribus.data.config import TokenizerFile, TokenizerHub, TrainBpe
from paribus.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = Callable[[], Iterator[str]]
NAMES = ("tokenizer.json", "tokenizer.json.gz")


def load_tokenizer(config: TokenizerConfig, texts: Texts) -> "Tokenizer":
    """The tokenizer of a config; `texts` starts an iteration over the texts of the training split.

    Raises DataError when it is absent, unreadable, or cannot be fetched."""
    match config:
        case TokenizerFile():
            return read_tokenizer(Path(config.path))
        case TokenizerHub():
            return _from_hub(config)
        case TrainBpe():
            return train_bpe(config, texts())


def read_tokenizer(path: Path) -> "Tokenizer":
    """Read tokenizer.json, tokenizer.json.gz, or the folder that holds one; truncation and padding are switched off.

    Raises DataError when there is none, or it is broken."""
    from tokenizers import Tokenizer

    path = tokenizer_file(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path}: not a tokenizer of the `tokenizers` library: {_line(error)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_file(path: Path) -> Path:
    """`path` itself, or the tokenizer of the folder that it is. Raises DataError when there is none."""
    candidates = [path / name for name in NAMES] if path.is_dir() else [path]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise DataError(f"tokenizer.path: {path}: no tokenizer here; expected {' or '.join(NAMES)}, or their folder")
    return found


def train_bpe(config: TrainBpe, texts: Iterator[str]) -> "Tokenizer":
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2): special tokens first, then 256 bytes, then merges.

    The same texts in the same order give the same tokenizer. Raises DataError when they are too few for the size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=config.special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (found := vocab_size(tokenizer)) != config.vocab_size:
        raise DataError(
            f"split {config.split!r} has too little text for a vocabulary of {config.vocab_size:,}: "
            f"it gives {found:,} entries; lower tokenizer.vocab_size"
        )
    return tokenizer


def fingerprint(tokenizer: "Tokenizer") -> str:
    """SHA-256 of the tokenizer as canonical JSON: sorted keys, no spaces."""
    canonical = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def vocab_size(tokenizer: "Tokenizer") -> int:
    """One more than the largest id: every id is below it, even where the vocabulary has holes."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def start_token_id(tokenizer: "Tokenizer", beginning_of_document: str | None = None) -> int | None:
    """The id of `beginning_of_document`; without one, of the first special token that is not for the unknown or padding.

    None when the tokenizer has no such token. Raises DataError when it lacks the one that is named."""
    if beginning_of_document is not None:
        if (found := tokenizer.token_to_id(beginning_of_document)) is None:
            raise DataError(f"beginning_of_document: the tokenizer has no token {beginning_of_document!r}")
        return int(found)
    unknown = getattr(tokenizer.model, "unk_token", None)
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    names = ((index, token.content) for index, token in added if token.special)
    return next((index for index, name in names if name != unknown and "pad" not in name.lower()), None)


def token_bytes(tokenizer: "Tokenizer") -> NDArray[np.int32] | None:
    """How many UTF-8 bytes of text each id stands for: (V,); 0 for special tokens. None unless it is byte-level.

    Exact for text that the tokenizer does not normalise (some fold Unicode to NFC first)."""
    if not _is_byte_level(json.loads(tokenizer.to_str())):
        return None
    sizes = np.zeros(vocab_size(tokenizer), np.int32)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        sizes[index] = len(token)  # the byte-level alphabet writes each byte as one character
    for index, added in tokenizer.get_added_tokens_decoder().items():
        sizes[index] = 0 if added.special else len(added.content.encode())
    return sizes


def _is_byte_level(description: dict[str, Any]) -> bool:
    """Whether the text is cut into bytes before the model sees it."""
    stage = description.get("pre_tokenizer") or {}
    return any(part["type"] == "ByteLevel" for part in stage.get("pretokenizers", [stage]) if part)


def _from_hub(config: TokenizerHub) -> "Tokenizer":
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return read_tokenizer(Path(hf_hub_download(config.name, NAMES[0], revision=config.revision)))
    except LocalEntryNotFoundError:
        raise DataError(
            f"tokenizer {config.name}: the Hugging Face hub cannot be reached and no copy is cached; "
            "connect once, or use tokenizer.kind: file"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(f"tokenizer {config.name}: the hub does not give its {NAMES[0]}: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
