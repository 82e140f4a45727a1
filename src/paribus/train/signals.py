"""Ctrl-C and SIGTERM as a wish that the loop reads between steps, instead of an exception anywhere."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While open, the first SIGINT or SIGTERM is remembered; a second SIGINT interrupts at once.

    Outside the main thread, where Python allows no handlers, it remembers nothing."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; once more, where a library has put its own handlers in our place."""
        for number in self._previous:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
