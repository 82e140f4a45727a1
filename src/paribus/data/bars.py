"""Progress bars on stderr for the long steps of preparing a corpus."""

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]  # told how many more bytes were read
Begin = Callable[[str, int | None], Advance]  # a title, and the bytes to read where they are known


@contextlib.contextmanager
def bars(visible: bool) -> Iterator[Begin]:
    """Begin one bar after another; without `visible`, none is drawn."""
    if not visible:
        yield lambda _title, _total: lambda _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    left = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(*columns, left, console=Console(stderr=True)) as progress:

        def begin(title: str, total: int | None) -> Advance:
            task = progress.add_task(title, total=total)
            return lambda num_bytes: progress.advance(task, num_bytes)

        yield begin
