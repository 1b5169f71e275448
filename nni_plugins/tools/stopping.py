"""How a run ends that is asked to end: by Ctrl-C, by ``kill`` or by NNI's manager.

Left alone, Lightning turns Ctrl-C into status 1 and SIGTERM into status 0, the status of success. An exception of our
own passes through it untouched and reaches the program's door, which says how to resume. The status is the shell's
convention: 128 and the signal's number, 130 for Ctrl-C and 143 for SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has asked the process to end; like ``KeyboardInterrupt``, it is not an :class:`Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        self.cause = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise :class:`Stopped` inside the block when a signal asks the process to end.

    A signal that the process was started to ignore stays ignored, as under ``nohup``. Python handles signals in the
    main thread alone, so that elsewhere the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Stopped(number)
        # a worker of a data loader, which is a fork, ends as it would have without this handler
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_stopped(stopped: Stopped, advice: str = "") -> int:
    """Print one line on standard error, that the program was stopped and what to do; return its exit status."""
    print(f"nni-plugins: stopped by {stopped.cause}{advice and '; '}{advice}", file=sys.stderr, flush=True)
    return stopped.status


def output_is_unread() -> bool:
    """Return whether standard output is a pipe whose reader has gone, as ``head`` does when it has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # whether a pipe is broken is told without being asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))


def end_unread() -> int:
    """Drop what is left of the output; return 1, the status that Rich ends with where it prints to nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python complains of its last flush
    return 1
