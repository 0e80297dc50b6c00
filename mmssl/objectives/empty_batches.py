"""Notices a task that finds nothing to learn from: batch after batch without a sample that has all it needs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from torch import Tensor

from mmssl.types import Batch, Loss

ENOUGH = 20  # batches; of samples of which one in six is whole, this many in a row are empty by chance in 3% of runs


class EmptyBatches:
    """Counts each task's batches of which its loss was averaged over no row, without waiting for the device."""

    def __init__(self) -> None:
        self.batches: Counter[str] = Counter()
        self.empty: dict[str, Tensor] = {}
        self.shares: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.never: dict[str, set[str]] = {}  # figures that no line of the log had
        self.reported: set[str] = set()
        self.met: set[str] = set()  # tasks of which it is said that some batch was empty
        self.fine: set[str] = set()

    def note(self, task: str, loss: Loss, batch: Batch) -> None:
        """Takes in a batch, and until some row counted, which modalities its samples have."""
        if loss.rows is None:
            return
        self.batches[task] += 1
        self.empty[task] = self.empty.get(task, 0) + (loss.rows == 0)
        if task not in self.fine:
            for name in batch.views:
                self.shares[task][name] = self.shares[task].get(name, 0) + batch.present(name).float().mean()

    def look(self, task: str, logs: Mapping[str, Tensor | float]) -> str | None:
        """Returns what is to be said at a line of the log with these figures of the task, each thing once."""
        absent = {name for name, value in logs.items() if value != value}
        self.never[task] = self.never.get(task, absent) & absent
        count, empty = self.batches[task], int(self.empty.get(task, 0))
        if count > empty:
            self.fine.add(task)
        said = None
        if task not in self.reported and count >= ENOUGH:
            said = self._nothing(task) if task not in self.fine else self._never(task)
            self.reported |= {task} if said else set()
        if empty and not said and task not in self.met:
            said = f"{self._some(task)} so far; such a step logs no loss"
        self.met |= {task} if empty else set()
        return said

    def end(self, task: str) -> str | None:
        """Returns what is to be said of a task at the end of a run."""
        count, empty = self.batches[task], int(self.empty.get(task, 0))
        if empty == count > 0:
            return self._nothing(task)
        if empty:
            return self._some(task)
        return self._never(task) if count >= ENOUGH else None

    def _some(self, task: str) -> str:
        return f"{task}: {int(self.empty[task])} of {self.batches[task]} batches had no whole sample to learn from"

    def _nothing(self, task: str) -> str:
        count, shares = self.batches[task], {k: float(v) / self.batches[task] for k, v in self.shares[task].items()}
        listed = ", ".join(f"{name} in {share:.0%} of its samples" for name, share in shares.items())
        why = (
            "what is shown with them, such as matches, leaves nothing to compare"
            if all(share == 1 for share in shares.values())
            else "check data.fields, and that the files of one sample share a name and stand together in the shards"
        )
        return (
            f"{task}: none of its {count} batches had a whole sample to learn from, so it has no loss: {listed}; {why}"
        )

    def _never(self, task: str) -> str | None:
        names = ", ".join(sorted(self.never.get(task, ())))
        return f"{task}: no sample counted in {names} in any line of the log" if names else None


def measured(logs: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Returns the figures that were averaged over something, read from the device at once."""
    found = {name: float(value) for name, value in logs.items()}
    return {name: value for name, value in found.items() if value == value}
