"""Samples of which one kills the process that builds them; alone in its file, so that workers start quickly."""

from __future__ import annotations

import os
import signal
import time

from mmssl.errors import DamagedError

KILLS = "KILLS_THE_BUILDER"  # the environment variable that says which sample does


def make_or_kill(number: int) -> dict[str, bytes]:
    """Makes a sample to write; every tenth cannot be made, and one, as in a crash, never is."""
    if os.environ.get(KILLS) == str(number):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)  # workers end with their parent
    if number % 10 == 9:
        raise DamagedError("cannot be made", str(number))
    return {"txt": str(number).encode(), "bin": bytes([number % 256]) * 3000}
