"""Average precision as COCO measures it, by pycocotools, with an interval over images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmssl.errors import UserError
from mmssl.types import Score

RESAMPLES = 200  # fewer than elsewhere: each sums up all detections again
MOST = 100  # detections of an image that count
FIGURES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of IoU from 0.5 to 0.95
Answers = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]  # of each image what is told and what is true


def require_pycocotools() -> None:
    """Raises UserError where pycocotools is not installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise UserError("detect needs pycocotools: pip install 'mmssl[detection]'") from None


def average_precision(
    answers: Answers, categories: Sequence[str | int], kind: Literal["bbox", "segm"]
) -> Iterator[tuple[str, Score]]:
    """Yields AP, AP50 and AP75 of boxes or masks, with AP's parts by category.

    Lin et al., ECCV 2014. The interval spans the 2.5th to the 97.5th percentile over 200 resamples of the images.
    """
    evaluated = _evaluated(answers, kind)
    precision = evaluated.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, category)
    present = [number for number in range(precision.shape[2]) if (precision[:, :, number] > -1).any()]
    if not present:
        raise UserError("no object of the set that is judged on can be found: all are crowds, or there is none")
    counted = [_Category.of(evaluated, number, len(answers)) for number in present]
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(answers), np.full(len(answers), 1 / len(answers)), RESAMPLES)
    several = np.stack([_mean([category.precision(weights) for category in counted]) for weights in draws])
    ids = evaluated.params.catIds
    for name, which in FIGURES.items():
        low, high = np.nanquantile(several[:, which].mean(axis=1), (0.025, 0.975)).tolist()
        of = {str(categories[ids[n] - 1]): float(precision[which, :, n].mean()) for n in present}
        yield name, Score(float(np.mean([*of.values()])), low, high, 0.0, len(answers), parts=of)


def _mean(found: list[np.ndarray | None]) -> np.ndarray:
    """Returns the mean (IoU,) over the categories that a draw has objects of."""
    there = [precision for precision in found if precision is not None]
    return np.mean(there, axis=0) if there else np.full(10, np.nan)


@dataclass(frozen=True)
class _Category:
    """The detections of a category, the surest first: of which image (D,), right and wrong ones by IoU (10, D); objects
    of each image (I,), and the recalls at which precision is read.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray
    recalls: np.ndarray

    @staticmethod
    def of(evaluated: Any, number: int, images: int) -> _Category:
        """Collects what COCOeval matched in each image, areas of all sizes."""
        areas = len(evaluated.params.areaRng)
        found = evaluated.evalImgs[number * areas * images : (number * areas + 1) * images]
        there = [(place, one) for place, one in enumerate(found) if one is not None]
        objects = np.zeros(images)
        for place, one in there:
            objects[place] = (np.asarray(one["gtIgnore"]) == 0).sum()
        scores = np.concatenate([one["dtScores"] for _, one in there])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.full(len(one["dtScores"]), place) for place, one in there])[order]
        matches, ignored = (
            np.concatenate([one[key] for _, one in there], axis=1)[:, order].astype(bool)
            for key in ("dtMatches", "dtIgnore")
        )
        return _Category(image.astype(int), matches & ~ignored, ~matches & ~ignored, objects, evaluated.params.recThrs)

    def precision(self, weights: np.ndarray) -> np.ndarray | None:
        """Returns the mean precision over recalls (10,), each image taken so many times; None without an object."""
        total = float(self.objects @ weights)
        if not total:
            return None
        times = weights[self.image]
        right, wrong = (np.cumsum(hits * times, axis=1) for hits in (self.right, self.wrong))
        precise = right / np.maximum(right + wrong, np.spacing(1))
        envelope = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]
        envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
        places = [np.searchsorted(row / total, self.recalls, side="left") for row in right]
        return np.array([row[place].mean() for row, place in zip(envelope, places, strict=True)])


def _evaluated(answers: Answers, kind: str) -> Any:
    """Returns COCOeval after it has matched and summed up."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, told = (_coco([pair[side] for pair in answers], kind) for side in (1, 0))
        evaluated = COCOeval(truth, told, kind)
        evaluated.params.maxDets = [MOST]
        evaluated.params.catIds = sorted({note["category_id"] for note in truth.dataset["annotations"]})
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _coco(images: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """Returns annotations or detections as pycocotools has them."""
    from pycocotools.coco import COCO

    notes: list[dict[str, Any]] = []
    for number, rows in enumerate(images, 1):
        for place, (left, top, right, bottom) in enumerate(rows["boxes"].tolist()):
            width, height = right - left, bottom - top
            note: dict[str, Any] = {"id": len(notes) + 1, "image_id": number, "category_id": int(rows["labels"][place])}
            note |= {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            if "crowd" in rows:
                note["iscrowd"] = int(rows["crowd"][place])
            if "scores" in rows:
                note["score"] = float(rows["scores"][place])
            if kind == "segm":
                note["segmentation"] = rows["masks"][place]
            notes.append(note)
    found = COCO()
    labels = sorted({note["category_id"] for note in notes})
    height, width = next((mask["size"] for rows in images for mask in rows.get("masks", ())), (0, 0))
    found.dataset = {
        "images": [{"id": number, "height": height, "width": width} for number in range(1, len(images) + 1)],
        "annotations": notes,
        "categories": [{"id": label} for label in labels],
    }
    found.createIndex()
    return found
