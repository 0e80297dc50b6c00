"""Says in words what a build wrote, and what became of everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

NAMED = 10  # classes


def summary(index: Mapping[str, Any]) -> str:
    """Returns what an index says of its build, a line for each kind of thing: written, left out, passed over."""
    fields: Counter[str] = Counter()
    for shard in index["shards"]:
        fields.update(shard["fields"])
    has = ", ".join(f"{name} in {n:,}" for name, n in sorted(fields.items()))
    written = f"{index['samples']:,} samples in {len(index['shards']):,} shards ({has})"
    return "\n".join([written, *(f"{len(c):,} classes" for c in [index.get("classes")] if c), *account(index)])


def account(index: Mapping[str, Any]) -> list[str]:
    """Returns a line each for what was left out by reason, passed over by extension, and classes without samples."""
    lines = []
    for reason, count in index.get("damaged", {}).items():
        examples = index.get("examples", {}).get(reason, ())
        lines.append(f"left out {count:,}: {reason}" + (f" (such as {'; '.join(examples)})" if examples else ""))
    if passed := index.get("passed_over"):
        lines.append("passed over: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(passed.items())))
    if empty := index.get("empty_classes"):
        more = f" and {len(empty) - NAMED:,} others" if len(empty) > NAMED else ""
        lines.append(f"no sample of: {', '.join(empty[:NAMED])}{more}")
    return lines
