"""A sample whose making may kill the build; alone in its file, so that worker processes start quickly."""

from __future__ import annotations

import os
import signal
import time

from mmssl.errors import DamagedError


def make(number: int) -> dict[str, bytes]:
    """Makes a sample to write; every tenth cannot be made. Number KILL_AT kills the process that builds, at once."""
    if number == int(os.environ.get("KILL_AT", "-1")):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # this process ends with its parent
    if number % 10 == 9:
        raise DamagedError("cannot be made", str(number))
    return {"txt": str(number).encode(), "bin": bytes([number % 256]) * 3000}
