"""A program that is asked to end says so, with the status that the shell knows, and its forks end as they would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from nni_plugins.tools.stopping import SIGNALS, Stopped, stopping_on_signals


@pytest.mark.parametrize(
    ("number", "cause", "status"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_signal_raises_what_no_handler_of_errors_catches(number: int, cause: str, status: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Stopped) as stopped, stopping_on_signals():
        os.kill(os.getpid(), number)
    assert (stopped.value.cause, stopped.value.status) == (cause, status)
    assert not isinstance(stopped.value, Exception)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_runs_the_block_without_handlers() -> None:
    seen: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with stopping_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 7)])
def test_a_fork_ends_as_it_would_have(number: int, status: int) -> None:
    script = f"""
        import os, sys
        from nni_plugins.tools.stopping import stopping_on_signals
        with stopping_on_signals():
            child = os.fork()
            if not child:
                try:
                    os.kill(os.getpid(), {int(number)})
                except KeyboardInterrupt:
                    os._exit(7)
                os._exit(0)
            _, found = os.waitpid(child, 0)
        sys.exit(0 if os.waitstatus_to_exitcode(found) == {status} else 1)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 0
