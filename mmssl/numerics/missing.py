"""The score of what is missing."""

from __future__ import annotations

MISSING = -1e30  # finite, so that a row of which every score is missing has no NaN in its gradient
