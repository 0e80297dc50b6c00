"""Imported by the server that data workers are forked from, which runs with the signals that end a job blocked.

A process that is forked from it for something else, by a user's own program, takes these signals as any other does.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.util import register_after_fork

from mmssl.data.workers import STOPS


def unblock(_: object) -> None:
    """Runs in each process as it starts; workers of mmssl ignore the signals as soon as they can."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    if not getattr(target, "__module__", "").startswith("mmssl."):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


register_after_fork(unblock, unblock)
