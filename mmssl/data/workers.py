"""Worker processes: how they start, and that they end with the process they work for.

torch is imported where it is used, for processes that only write shards do without it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext

from mmssl.errors import UserError

PRELOAD = ["mmssl.data.stream", "mmssl.data.sweep", "mmssl.views.single"]  # what workers import, once for all of them
PR_SET_PDEATHSIG = 1


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
        context.set_forkserver_preload(PRELOAD)
    return context


def end_with_parent() -> None:
    """Ends this worker when the process it works for is killed; otherwise it would wait for work for ever.

    On Linux the kernel sees to it, also where C code never lets another thread run: by fork and spawn the parent is
    that process, by forkserver a server that ends with it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()  # sees one too that ended before this
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
