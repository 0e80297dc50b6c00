"""Zero-shot classification of a user's own pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmssl.data.shards import Source
from mmssl.errors import DamagedError, UserError
from mmssl.evals.classifier import read_classes, read_templates, zero_shot_classifier
from mmssl.evals.score import bootstrap
from mmssl.evals.stream import chunks
from mmssl.evals.zero_shot import rank_of
from mmssl.judge import load_encoders
from mmssl.types import Encoder, Score

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@dataclass(slots=True)
class Predictions:
    """rows: (picture, class, probability). skipped: (picture, why). scores: accuracy where labels are known."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the rows as CSV."""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "class", "probability"), *self.rows])


def zero_shot(
    run: str | Path,
    images: str,
    classes: str | Sequence[str],
    templates: str | Sequence[str] | None = None,
    *,
    space: str = "clip",
    batch_size: int = 64,
    progress: bool = True,
) -> Predictions:
    """Classifies a folder of pictures or shards with a run's encoders.

    classes, templates: a list or a file with one per line. Where a picture lies in a folder named as a class,
    or a shard's `cls` gives its number, accuracy is scored as well. Unreadable pictures are skipped and listed.
    """
    encoders = load_encoders(run)
    for modality in ("image", "text"):
        if modality not in encoders:
            raise UserError(f"{run} has no {modality} encoder; it has {', '.join(encoders)}")
    names = read_classes(classes)
    weights = zero_shot_classifier(encoders["text"], names, read_templates(templates), space=space)
    stream: Iterable[dict[str, Any]] = (
        _folder(Path(images)) if Path(images).is_dir() and not _has_shards(Path(images)) else _shards(images)
    )
    found, hits = Predictions(), []
    for chunk in chunks(iter(tqdm(stream, desc="zero-shot", unit="image", disable=not progress)), batch_size):
        prepared = [(sample, x) for sample in chunk if (x := _prepare(encoders["image"], sample, found)) is not None]
        if not prepared:
            continue
        x = encoders["image"].preprocess.collate([x for _, x in prepared])
        with torch.inference_mode():
            scores = encoders["image"].embed(x, space=space) @ weights.T
        p = (100 * scores).softmax(dim=1)
        for row, (sample, _) in enumerate(prepared):
            best, label = int(p[row].argmax()), sample.get("label")
            found.rows.append((sample["__key__"], names[best], round(float(p[row, best]), 4)))
            number = names.index(label) if label in names else label
            if isinstance(number, int) and 0 <= number < len(names):
                hits.append(rank_of(scores[row : row + 1], torch.tensor([number])))
    if not found.rows and not found.skipped:
        raise UserError(f"{images} holds no pictures; expected {', '.join(IMAGES)} or shards")
    if hits:
        ranks = torch.cat(hits)
        found.scores["top1"] = bootstrap(ranks < 1, chance=1 / len(names))
        if len(names) > 5:
            found.scores["top5"] = bootstrap(ranks < 5, chance=5 / len(names))
    return found


def _prepare(encoder: Encoder, sample: dict[str, Any], found: Predictions) -> Any:
    try:
        return encoder.preprocess(sample["image"])
    except DamagedError as error:
        found.skipped.append((sample["__key__"], str(error)))
        return None


def _has_shards(folder: Path) -> bool:
    return (folder / "index.json").is_file() or any(folder.glob("*.tar"))


def _folder(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES:
            label = path.parent.name if path.parent != folder else None
            yield {"__key__": str(path.relative_to(folder)), "image": path, "label": label}


def _shards(shards: str) -> Iterator[dict[str, Any]]:
    return Source(shards=shards).samples({"image", "label"})
