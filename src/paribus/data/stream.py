"""From a `data:` section to the stream of batches that a run reads."""

from paribus.data.batches import Overlay, Stream, untouched
from paribus.data.config import DataConfig, Seeds, TextData


def build_stream(data: DataConfig, seeds: Seeds, batch_size: int, overlay: Overlay = untouched) -> Stream:
    """The stream of a `data:` section; batch_size: windows of the global batch; overlay: what is written over each.

    Raises DataError when a store, a category or a design cannot be used as asked."""
    if isinstance(data, TextData):
        from paribus.data.windows import text_stream

        return text_stream(data, seeds, batch_size, overlay)
    from paribus.data.synthetic import synthetic_stream

    return synthetic_stream(data, seeds, batch_size, overlay)
