"""Worker processes: how they start, and that they end with the process they work for.

torch is imported where it is used, for processes that only write shards do without it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext

from mmssl.errors import UserError

if sys.platform == "linux":
    import fcntl

STOPS = [signal.SIGTERM] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGUSR1]  # they end a job
PRELOAD = [
    "mmssl.data.server",
    "mmssl.data.stream",
    "mmssl.data.full_pass",
    "mmssl.views.single",
]  # what workers import, once for all of them


def refuse_import() -> None:
    """Raises UserError in a starting worker that has imported a script and come to a run in it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"{getattr(sys.modules.get('__mp_main__'), '__file__', 'the script')} was imported by a data worker, which "
            "came to a run in it; put what starts the run under `if __name__ == '__main__':`"
        )


def start_context() -> BaseContext:
    """Returns the way to start processes: multiprocessing's method, but never fork once CUDA is in use.

    A fork inherits CUDA tensors, and dies where its garbage collector destroys one.
    """
    import torch

    method = multiprocessing.get_start_method()
    if method == "fork" and torch.cuda.is_initialized():
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        context.set_forkserver_preload(PRELOAD)
        resource_tracker.ensure_running()  # started with the server, it would unblock SIGTERM before
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # what it starts with blocked does not end it
        forkserver.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def end_with_parent() -> None:
    """Ends this worker when the process it works for is killed; otherwise it would wait for work for ever.

    On Linux the kernel sees to it, by SIGIO, also where C code never lets another thread run.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()  # sees one too that ended before this
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        pipe = parent.sentinel  # in which nothing happens but its end
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
