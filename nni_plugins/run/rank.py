"""A process that trains on one of several devices; :mod:`nni_plugins.run.devices` starts it and tells it what to do."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from nni_plugins.run.devices import Done, Epoch, Failed, Place, receive, send
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.tools.console import quiet_libraries
from nni_plugins.tools.own_code import allow

ONE_CAN_WAIT = timedelta(days=1)
"""How long ranks wait for each other: one may be loading images. That one has died is seen by who started it."""


def main() -> None:
    """Do the task that arrives by the pipe."""
    connection, ends_with_parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with_parent, args=(ends_with_parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its ranks
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))  # or Lightning would tidy up first
    send(connection, _answer(connection))
    connection.recv_bytes()  # until the parent closes its end, lest the others complain first that this one is gone


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written: this returns when the parent has gone
    os._exit(1)


def _answer(connection: Connection) -> Done | Failed:
    try:
        place: Place = receive(connection)
        pickled = connection.recv_bytes()  # all of it, before waiting for ranks that have yet to be told
        _prepare(place)
        task, arguments = pickle.loads(pickled)

        def report(record: EpochRecord) -> None:
            send(connection, Epoch(record))
            receive(connection)

        result = task(*arguments, report if place.rank == 0 else None)
        return Done(result if place.rank == 0 else None)
    except Exception as error:
        return Failed(_portable(error), traceback.format_exc())


def _prepare(place: Place) -> None:
    quiet_libraries()
    if place.rank:  # rank 0 speaks for all
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
    torch.set_num_threads(place.threads)
    for name in place.own_code:
        allow(name, "code")
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{place.meeting_point}",
        rank=place.rank,
        world_size=place.ranks,
        timeout=ONE_CAN_WAIT,
    )


def _portable(error: Exception) -> Exception:
    """Return an exception that survives the way to another process."""
    try:
        pickled: Any = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return pickled


if __name__ == "__main__":
    main()
