"""Worker processes: how they start, and that they end with the process they work for.

torch is imported where it is used, for processes that only write shards do without it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, TypeVar

from mmssl.errors import UserError

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

T = TypeVar("T")
STOPS = [signal.SIGTERM] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGUSR1]  # they end a job
PRELOAD = ["mmssl.data.stream", "mmssl.data.sweep", "mmssl.views.single"]  # what workers import, once for all of them


def work(dataset: IterableDataset[T], *, workers: int, pin: bool = False) -> Iterator[T]:
    """Iterates over a dataset in so many processes, or in this one for 0, in a fixed order.

    pin: into page-locked memory where there is CUDA. Workers start by multiprocessing's method (set_start_method), but
    once CUDA is in use never by fork, since a fork inherits CUDA tensors, and dies where its garbage collector destroys
    one: forkserver, or spawn where that lacks. These import the script that runs, so that a script must start what it
    does under `if __name__ == "__main__":`. Raises UserError for a dataset that cannot be sent to them.
    """
    import torch
    from torch.utils.data import DataLoader

    refuse_import()
    context = _context() if workers else None
    with warnings.catch_warnings():  # how many workers is the recipe's choice, for the order depends on it
        warnings.filterwarnings("ignore", "This DataLoader will create")
        warnings.filterwarnings("ignore", "Got pickle error")  # it is told below
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin and torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, so that starting workers leaves the global one as it is
            multiprocessing_context=context,
            worker_init_fn=end_with_parent,
        )
        try:
            return iter(loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"what makes the samples cannot be sent to workers: {error}; define it at the top of a module, "
                "or use workers: 0"
            ) from error


def refuse_import() -> None:
    """Raises UserError in a starting worker that has imported a script and come to a run in it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"{getattr(sys.modules.get('__mp_main__'), '__file__', 'the script')} was imported by a data worker, which "
            "came to a run in it; put what starts the run under `if __name__ == '__main__':`"
        )


def _context() -> BaseContext:
    """Returns the way to start processes."""
    import torch

    method = multiprocessing.get_start_method()
    if method == "fork" and torch.cuda.is_initialized():
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        from multiprocessing.forkserver import ensure_running

        context.set_forkserver_preload(PRELOAD)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # what it starts with blocked does not end it
        ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    return context


def end_with_parent(_worker: int = 0) -> None:
    """Ends this worker when the process it works for ends, and only then: a signal to all of the job is not for it."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)  # a fork has its parent's handlers, and the parent ends it by SIGTERM
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        os.setpgid(0, 0)  # out of the group that terminals and clusters signal
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
