"""The files of an OLMo checkpoint, read so that nothing in them can run: tensors, names and plain values only."""

import base64
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paribus.errors import ConfigError


def read_tensors(path: Path) -> dict[str, Any]:
    """The nested mapping of one file. `.safetensors` may hold plain names, or the encoded ones of ai2-olmo's writer.

    `.pt` is opened by PyTorch's restricted reader. Raises ConfigError for what holds anything else."""
    if path.suffix == ".safetensors":
        return _nested(load_file(path), path)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        words = " ".join(str(error).split())[:150]
        raise ConfigError(f"{path}: cannot be read as tensors and plain values: {words}") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under the names that ai2-olmo 0.6.0 decodes (olmo/safetensors_util.py)."""
    encoded = {_encode(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(encoded, path)


def _nested(flat: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tensor in flat.items():
        keys, is_pickled = _decode(name, path)
        inner = found
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = _plain(tensor.numpy().tobytes(), path) if is_pickled else tensor
    return found


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(pickle.dumps(((name,), False))).decode()


def _decode(name: str, path: Path) -> tuple[tuple[Any, ...], bool]:
    """(keys, whether the value is a plain one). ai2-olmo's names are base64 of a pickled tuple; others are what they say."""
    if "." in name:  # no base64
        return (name,), False
    try:
        content = base64.b64decode(name, altchars=b"-_", validate=True)
    except ValueError:
        return (name,), False
    keys, is_pickled = _plain(content, path)
    return tuple(keys), bool(is_pickled)


class _PlainValues(pickle.Unpickler):
    """Tuples, lists, mappings, text and numbers: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _plain(content: bytes, path: Path) -> Any:
    try:
        return _PlainValues(io.BytesIO(content)).load()
    except Exception as error:  # bytes from anywhere: whatever the reader stumbles over, the file is not ours to trust
        raise ConfigError(f"{path}: a name or value in it is more than plain text and numbers: {error}") from error
