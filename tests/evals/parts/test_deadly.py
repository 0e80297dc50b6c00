"""A file that hangs or kills whoever decodes it costs an evaluation that sample, counted by its reason."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import WAYS
from named import png, tar

from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError
from mmssl.evals.parts.pretext import show
from mmssl.evals.parts.report import reporting
from mmssl.judge import Judge
from mmssl.limits import VARIABLE
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Objective, Pretext, Trained, View
from mmssl.views import single

ENDS = {3: "hang", 8: "crash"}


@pytest.fixture(autouse=True)
def in_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 2)
    monkeypatch.setenv(VARIABLE, "sample_seconds=2")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


class Deadly(ImagePreprocess):
    """Ends at images of an odd size in a way that this tells, or says so where they are only damaged."""

    spared = False

    def __call__(self, raw: Any) -> Any:
        number = raw.size[0] - 16
        if number in ENDS:
            end, reason = WAYS[ENDS[number]]
            if self.spared or not multiprocessing.parent_process():
                raise DamagedError(reason)
            end()
        return super().__call__(raw)


def judged(sets: dict[str, Any], *, spared: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).eval()
    encoder.preprocess = Deadly(size=16)
    encoder.preprocess.spared = spared
    judge = Judge({"knn": {**sets, "k": [3]}, "linear": {**sets, "baselines": False}})
    found = judge.run(Trained({"image": encoder}))
    return found, judge.remarks()["left_out"]


def pictures(folder: Path, count: int, deadly: tuple[int, ...] = ()) -> dict[str, Any]:
    made = []
    for number in range(count):
        name = ("ant", "cat")[number % 2]
        made.append({"png": png(name, number, size=16 + number * (number in deadly)), "cls": number % 2})
    return tar(folder, made, classes=["ant", "cat"])


def test_probes_leave_it_out(tmp_path: Path) -> None:
    sets = {"train": pictures(tmp_path / "a", 12, (3,)), "data": pictures(tmp_path / "b", 10, (8,))}
    spared, found = judged(sets, spared=True), judged(sets, spared=False)
    assert found == spared
    assert found[0]["linear/top1"].n == found[0]["knn/k3"].n == 9
    assert found[1]["knn"] == found[1]["linear"] == {WAYS[way][1]: 1 for way in ENDS.values()}


class Ends(View):
    def __call__(self, sample: Any) -> Any:
        if sample["__number__"] == 2:
            WAYS["exit"][0]()
        return single.view(self.preprocess)(sample)


def test_a_task_is_asked_about_the_others(tmp_path: Path) -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1)
    trained = Trained({"image": encoder}, {"task": Pretext(Objective({"image": encoder}), Ends, {})})
    source = Judge({"knn": {"train": (node := pictures(tmp_path / "a", 5)), "data": node}}).evaluations["knn"]
    with reporting() as report:
        numbers = [which["sample"].tolist() for which, _ in show(trained, "task", source.sets.test, batch=3)]  # type: ignore[attr-defined]
    assert numbers == [[0, 1], [3, 4]] and report.counts() == {WAYS["exit"][1]: 1}
