"""Zero-shot classification of a user's own pictures."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mmssl import modalities
from mmssl.data.timer import timed
from mmssl.data.user_files import check_file, files_of
from mmssl.errors import DamagedError, UserError
from mmssl.evals.classes import Label, chance, class_of, listed, matched, numbered
from mmssl.evals.classifier import embedded_prompts, read_classes, read_templates
from mmssl.evals.needs import need_encoder
from mmssl.evals.report import having, reporting, skipping
from mmssl.evals.score import bootstrap
from mmssl.evals.source import Examples
from mmssl.evals.stream import chunks
from mmssl.evals.zero_shot import rank_of, warn_of_templates
from mmssl.judge import load_encoders
from mmssl.types import Encoder, Sample, Score, Trained

IMAGES = tuple(f".{name}" for name, kind in modalities.EXTENSIONS.items() if kind == "image")


@dataclass(slots=True)
class Predictions:
    """rows: (picture, class, cosine similarity). scores: accuracy, where labels are known.

    skipped: (picture or, where it has no name, its shard; why). notes: what was passed over, and labels that are none
    of the classes.
    """

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the rows as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
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
    trust_code: bool = False,
) -> Predictions:
    """Classifies a folder of pictures or shards with a run's encoders.

    classes, templates: a list or a file with one per line. Where pictures lie in folders named as classes, or shards
    have labels, accuracy is scored as well, by the rule of evals/classes.py; where no label is a class it is not, and
    a note says so. Unreadable pictures are skipped and listed, hidden files passed over. trust_code: allow the run to
    name code outside mmssl.
    """
    trained = Trained(load_encoders(run, trust_code=trust_code))
    for modality in ("image", "text"):
        need_encoder(trained, modality, space=space)
    encoder, names = trained.encoders["image"], read_classes(classes)
    several = read_templates(templates)
    prompts = embedded_prompts(trained.encoders["text"], names, several, space=space)
    weights = F.normalize(prompts.mean(dim=0), dim=1)
    found, embedded, labels = Predictions(), list[Tensor](), list[Label | None]()
    folder = Path(images).is_dir() and not _has_shards(Path(images))
    with reporting() as report:
        stream = _folder(Path(images), found) if folder else _shards(images)
        for chunk in chunks(iter(tqdm(stream, desc="zero-shot", unit="image", disable=not progress)), batch_size):
            whole = _embedded(chunk, encoder, space)
            embedded += [x for _, x in whole]
            labels += [_label(sample) for sample, _ in whole]
            for sample, x in whole:
                row = weights @ x
                found.rows.append((sample["__key__"], names[int(row.argmax())], round(float(row.max()), 4)))
    found.skipped = [(key or shard, reason) for (shard, key, _), reason in report.left_out.items()]
    if not found.rows and not found.skipped:
        raise UserError(f"{images} holds no pictures; expected {', '.join(IMAGES)} or shards")
    _score(found, embedded, labels, dict(zip(several, prompts, strict=True)), names, where=images)
    return found


def _embedded(samples: list[Sample], encoder: Encoder, space: str) -> list[tuple[Sample, Tensor]]:
    """Returns the readable pictures, each with its embedding (D,) on the CPU."""
    prepared = []
    for sample in samples:
        with skipping(sample), timed():
            prepared.append((sample, encoder.preprocess(_opened(*having(sample, "image")))))
    if not prepared:
        return []
    with torch.inference_mode():
        x = encoder.embed(encoder.preprocess.collate([x for _, x in prepared]).to(encoder.device), space=space)
    return [(sample, row) for (sample, _), row in zip(prepared, x.float().cpu(), strict=True)]


def _opened(image: Any) -> Any:
    """Returns a file's bytes, and what is already open as it is."""
    if not isinstance(image, Path):
        return image
    try:
        check_file(image)
        return image.read_bytes()
    except OSError as error:
        raise DamagedError("a file that cannot be read", error.strerror or "") from None


def _label(sample: Sample) -> Label | None:
    with suppress(DamagedError):
        return class_of(sample.get("label"))
    return None


def _score(
    found: Predictions,
    embedded: list[Tensor],
    labels: list[Label | None],
    prompts: dict[str, Tensor],
    names: list[str],
    *,
    where: str,
) -> None:
    """Adds accuracy over the pictures that have a label, or a note why there is none; prompts: template -> (C, D)."""
    told = [(x, label) for x, label in zip(embedded, labels, strict=True) if label is not None]
    if not told:
        return
    asked, x = [label for _, label in told], torch.stack([row for row, _ in told])
    with reporting() as report:
        try:
            numbered(asked, where=where)
            numbers = torch.tensor(matched(asked, listed(names, asked), where=where, known_as="the list of classes"))
        except UserError as error:
            found.notes.append(f"accuracy is not scored: {error}")
            return
        ranks = rank_of(x @ F.normalize(torch.stack(list(prompts.values())).mean(dim=0), dim=1).T, numbers)
        found.scores["top1"] = bootstrap(ranks < 1, chance=chance(numbers, len(names)))
        if len(names) > 5:
            found.scores["top5"] = bootstrap(ranks < 5, chance=chance(numbers, len(names), guesses=5))
        warn_of_templates(x, numbers, prompts, found.scores["top1"])
    found.notes += report.warnings


def _has_shards(folder: Path) -> bool:
    return (folder / "index.json").is_file() or any(folder.glob("*.tar"))


def _folder(folder: Path, found: Predictions) -> Iterator[dict[str, Any]]:
    """Yields the pictures below a folder with the name of the folder they lie in; notes what is passed over."""
    files, hidden = files_of(folder)
    others = Counter(path.suffix.lower() or "no extension" for path in files if path.suffix.lower() not in IMAGES)
    others.update({"hidden": len(hidden)} if hidden else {})
    if others:
        told = ", ".join(f"{kind}: {count}" for kind, count in others.most_common())
        found.notes.append(f"passed over, as no pictures: {told}")
    for path in files:
        if path.suffix.lower() in IMAGES:
            label = path.parent.name if path.parent != Path() else None
            yield {"__key__": str(path), "image": folder / path, "label": label}


def _shards(shards: str) -> Iterable[dict[str, Any]]:
    source = Examples(shards=shards)
    with suppress(UserError):
        source.check({"label"})
        return source.samples({"image", "label"})
    return source.samples({"image"})
