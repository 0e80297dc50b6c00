"""Zero-shot classification of a user's own pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mmssl.data.shards import Source
from mmssl.errors import DamagedError, UserError
from mmssl.evals.classifier import read_classes, read_templates, zero_shot_classifier
from mmssl.evals.score import bootstrap
from mmssl.evals.stream import chunks
from mmssl.evals.zero_shot import rank_of
from mmssl.judge import load_encoders
from mmssl.types import Encoder, Sample, Score

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@dataclass(slots=True)
class Predictions:
    """rows: (picture, class, cosine similarity). skipped: (picture, why). scores: accuracy where labels are known."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the rows as CSV."""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "class", "similarity"), *self.rows])


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
    found, ranks = Predictions(), []
    for chunk in chunks(iter(tqdm(stream, desc="zero-shot", unit="image", disable=not progress)), batch_size):
        ranks += _classify(chunk, encoders["image"], weights, names, space, found)
    if not found.rows and not found.skipped:
        raise UserError(f"{images} holds no pictures; expected {', '.join(IMAGES)} or shards")
    if ranks:
        found.scores["top1"] = bootstrap(torch.tensor(ranks) < 1, chance=1 / len(names))
        if len(names) > 5:
            found.scores["top5"] = bootstrap(torch.tensor(ranks) < 5, chance=5 / len(names))
    return found


def _classify(
    samples: list[Sample], encoder: Encoder, weights: Tensor, names: list[str], space: str, found: Predictions
) -> list[int]:
    """Adds a row for each readable picture; returns the rank of the right class of those that have a label."""
    prepared = [(sample, x) for sample in samples if (x := _prepare(encoder, sample, found)) is not None]
    if not prepared:
        return []
    ranks = []
    x = encoder.preprocess.collate([x for _, x in prepared])
    with torch.inference_mode():
        scores = encoder.embed(x, space=space) @ weights.T
    for (sample, _), row in zip(prepared, scores, strict=True):
        best, label = int(row.argmax()), sample.get("label")
        found.rows.append((sample["__key__"], names[best], round(float(row[best]), 4)))
        number = names.index(label) if label in names else label
        if isinstance(number, int) and 0 <= number < len(names):
            ranks.append(int(rank_of(row[None], torch.tensor([number]))))
    return ranks


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
