"""Average precision: by hand, against pycocotools' own summary, and its interval."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import numpy as np
import pytest

from mmssl.errors import UserError
from mmssl.evals.parts import average_precision as ap


def test_without_pycocotools_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(UserError, match=r"^detect needs pycocotools: pip install 'mmssl\[detection\]'$"):
        ap.require_pycocotools()


def image(
    boxes: list[list[float]], labels: list[int], scores: list[float] | None = None, **rest: Any
) -> dict[str, Any]:
    made = {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels), **rest}
    return made if scores is None else {**made, "scores": np.array(scores)}


def test_by_hand() -> None:
    pytest.importorskip("pycocotools")
    truth = image([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 2], crowd=[False, False])
    told = image([[0, 0, 10, 10], [20, 20, 30, 26]], [1, 2], [0.9, 0.8])  # the second overlaps by 0.6
    found = dict(ap.average_precision([(told, truth)] * 3, ["cat", "dog"], "bbox"))
    assert found["AP"].parts == pytest.approx({"cat": 1.0, "dog": 0.3}), "at 0.5, 0.55 and 0.6 of ten"
    assert found["AP"].value == pytest.approx(0.65) and found["AP50"].value == 1 and found["AP75"].value == 0.5
    assert (found["AP"].n, found["AP"].low, found["AP"].high) == (3, pytest.approx(0.65), pytest.approx(0.65))
    crowd = image([[0, 0, 10, 10], [0, 0, 9, 9]], [1, 1], crowd=[False, True])
    wrong_first = image([[50, 50, 60, 60], [0, 0, 10, 10]], [1, 1], [0.9, 0.5])
    (_, score), *_ = ap.average_precision([(wrong_first, crowd)], ["cat"], "bbox")
    assert score.value == pytest.approx(0.5), "one right of two told; the crowd is neither"
    with pytest.raises(UserError, match="no object"):
        list(ap.average_precision([(wrong_first, image([], [], crowd=[]))], ["cat"], "bbox"))
    nothing = image([], [], [])
    assert dict(ap.average_precision([(nothing, truth)], ["cat", "dog"], "bbox"))["AP50"].value == 0


def random_answers(images: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    from pycocotools import mask as coco

    draw, answers = np.random.default_rng(0), []
    for _ in range(images):
        count = draw.integers(0, 5)
        corner, side = draw.uniform(0, 20, (count, 2)), draw.uniform(6, 12, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        moved = np.concatenate(
            [boxes + draw.normal(0, 0.8, boxes.shape), draw.uniform(0, 1, (2, 4)) + np.array([0, 0, 8, 8])]
        )
        labels = draw.integers(1, 4, count)
        both = [boxes, moved.clip(0, 32)]
        masks = []
        for rows in both:
            planes = np.zeros((len(rows), 32, 32), np.uint8)
            for plane, (left, top, right, bottom) in zip(planes, rows.astype(int), strict=True):
                plane[top:bottom, left:right] = 1
            masks.append([coco.encode(np.asfortranarray(plane)) for plane in planes])
        truth = image(boxes.tolist(), labels.tolist(), crowd=draw.random(count) < 0.2, masks=masks[0])
        told = image(moved.tolist(), [*labels, 1, 2], draw.random(count + 2).tolist(), masks=masks[1])
        answers.append((told, truth))
    return answers


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_those_of_pycocotools_and_so_is_the_draw_of_each_image_once(kind: Any) -> None:
    pytest.importorskip("pycocotools")
    answers = random_answers(20)
    found = dict(ap.average_precision(answers, ["a", "b", "c"], kind))
    evaluated = ap._evaluated(answers, kind)
    evaluated.params.maxDets = [1, 10, 100]  # as its own summary wants them
    with contextlib.redirect_stdout(io.StringIO()):
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    assert [score.value for score in found.values()] == pytest.approx(evaluated.stats[:3].tolist())
    evaluated = ap._evaluated(answers, kind)
    mine = [ap._Category.of(evaluated, number, 20).precision(np.ones(20)) for number in range(3)]
    plain = evaluated.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    np.testing.assert_allclose(np.stack(mine, axis=1), plain, atol=1e-9)
    assert found["AP"].low < found["AP"].value < found["AP"].high
    assert 0.05 < found["AP"].value < 0.95
    twice = ap._evaluated(answers[:1] + answers, kind)
    drawn = [ap._Category.of(evaluated, n, 20).precision(np.array([2, *[1] * 19])) for n in range(3)]
    plain = twice.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    np.testing.assert_allclose(np.stack(drawn, axis=1), plain, atol=0.02)  # its ties are in another order
