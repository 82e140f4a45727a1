"""A model as a Hugging Face folder that other programs read, for as long as they need it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paribus.models.quiet import without_bars

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@contextmanager
def hf_view(
    model: PreTrainedModel, tensors: dict[str, Tensor], tokenizer: "Tokenizer | None", start_token_id: int | None
) -> Iterator[Path]:
    """A temporary folder that `AutoModelForCausalLM` and, with a tokenizer, `AutoTokenizer` load.

    tensors: the whole state dict. The start token becomes the tokenizer's beginning and end of text. The folder is gone
    after the block, whatever happens in it; the model is not changed."""
    with tempfile.TemporaryDirectory(prefix="paribus-view-") as folder:
        with without_bars():
            model.save_pretrained(folder, state_dict=tensors)
        if tokenizer is not None:
            name = None if start_token_id is None else tokenizer.id_to_token(start_token_id)
            special = {} if name is None else {"bos_token": name, "eos_token": name}
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        yield Path(folder)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU; tied tensors stay tied. Of a sharded model it is gathered: every rank must call this."""
    found: dict[int, Tensor] = {}
    names = model.state_dict(keep_vars=True)
    for tensor in names.values():
        if id(tensor) not in found:
            kept = tensor.detach()
            found[id(tensor)] = (kept.full_tensor() if isinstance(kept, DTensor) else kept).cpu()
    return {name: found[id(tensor)] for name, tensor in names.items()}
