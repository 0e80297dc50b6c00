"""A sample that takes a while to make; alone in its file, so that worker processes start quickly."""

from __future__ import annotations

import time

from mmssl.errors import DamagedError


def make_slowly(number: int) -> dict[str, bytes]:
    """Makes a sample to write, so slowly that a test can interrupt it; every tenth cannot be made."""
    time.sleep(0.005)
    if number % 10 == 9:
        raise DamagedError("cannot be made", str(number))
    return {"txt": str(number).encode(), "bin": bytes([number % 256]) * 3000}
