"""Zero-shot classification of a user's own images."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mmssl import modalities
from mmssl.data.fields import decode
from mmssl.data.in_workers import batches_in_workers
from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.data.user_files import check_file, files_of
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.classes import Label, chance, class_of, match_classes, number_classes, number_listed
from mmssl.evals.parts.classifier import embedded_with_plain, read_classes, read_templates
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.report import reporting, require, usable
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import Examples
from mmssl.evals.zero_shot import rank_of, warn_of_templates
from mmssl.loading import load_encoders
from mmssl.types import Encoder, Preprocess, Sample, Score, Trained

IMAGES = tuple(f".{name}" for name, kind in modalities.EXTENSIONS.items() if kind == "image")


@dataclass(slots=True)
class Predictions:
    """rows: (image, class, cosine similarity). scores: accuracy, where labels are known.

    skipped: (image or, where it has no name, its shard; why). notes: what was passed over, and labels that are none
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
    """Classifies a folder of images or shards with a run's encoders.

    classes, templates: a list or a file with one per line; templates also a set by its name (short, plain, photo,
    imagenet80). Where images lie in folders named as classes, or shards
    have labels, accuracy is scored as well, by the rule of evals/parts/classes.py; where no label is a class it is not,
    and a note says so. Unreadable images are skipped and listed, hidden files passed over. trust_code: allow the run
    to name code outside mmssl.
    """
    trained = Trained(load_encoders(run, trust_code=trust_code))
    for modality in ("image", "text"):
        require_encoder(trained, modality, space=space)
    encoder, names = trained.encoders["image"], read_classes(classes)
    several = read_templates(templates)
    prompts, plain = embedded_with_plain(trained.encoders["text"], names, several, space=space)
    weights = F.normalize(prompts.mean(dim=0), dim=1)
    found, embedded, labels = Predictions(), list[Tensor](), list[Label | None]()
    folder = Path(images).is_dir() and not _has_shards(Path(images))
    with reporting() as report:
        source = _Folder(Path(images), found) if folder else _Named(shards=images)
        for about, rows, kept in _embedded(source, encoder, space, batch_size=batch_size, progress=progress):
            embedded += rows
            labels += [_label(label) for label in kept]
            for name, x in zip(about, rows, strict=True):
                row = weights @ x
                found.rows.append((name, names[int(row.argmax())], round(float(row.max()), 4)))
    found.skipped = [(key or shard, reason) for (shard, key, _), reason in report.left_out.items()]
    if not found.rows and not found.skipped:
        raise UserError(f"{images} holds no images; expected {', '.join(IMAGES)} or shards")
    _score(found, embedded, labels, dict(zip(several, prompts, strict=True)), plain, names, where=images)
    return found


def _embedded(
    source: Source, encoder: Encoder, space: str, *, batch_size: int, progress: bool
) -> Iterator[tuple[list[str], Tensor, list[Any]]]:
    """Yields of the readable images of a batch their names, the embeddings (B, D) on the CPU, and the labels."""
    reads = ["image"]
    with suppress(UserError):
        source.check({"label"})
        reads.append("label")
    prepare = partial(_prepared, preprocess=encoder.preprocess)
    collate = partial(_collated, preprocess=encoder.preprocess)
    with tqdm(desc="zero-shot", unit="image", disable=not progress) as bar:
        for made, batch in batches_in_workers(source, reads, prepare, collate, size=batch_size):
            deque(usable(made), maxlen=0)  # which leaves the others out
            bar.update(len(made))
            if batch is not None:
                with torch.inference_mode():
                    x = encoder.embed(batch[0].to(encoder.device), space=space)
                yield batch[2], x.float().cpu(), batch[1]


def _prepared(sample: Sample, *, preprocess: Preprocess) -> tuple[Any, Any, str]:
    return preprocess(*require(sample, "image")), sample.get("label"), sample["__file__"]


def _collated(prepared: list[tuple[Any, Any, str]], *, preprocess: Preprocess) -> tuple[Tensor, list[Any], list[str]]:
    images, labels, files = zip(*prepared, strict=True)
    return preprocess.collate(list(images)), list(labels), list(files)


def _label(value: Any) -> Label | None:
    with suppress(DamagedError):
        return class_of(value)
    return None


def _score(
    found: Predictions,
    embedded: list[Tensor],
    labels: list[Label | None],
    prompts: dict[str, Tensor],
    plain: Tensor,
    names: list[str],
    *,
    where: str,
) -> None:
    """Adds accuracy over the images that have a label, or a note why there is none.

    prompts: template -> (C, D). plain: of the class names alone.
    """
    labelled = [(x, label) for x, label in zip(embedded, labels, strict=True) if label is not None]
    if not labelled:
        return
    known, x = [label for _, label in labelled], torch.stack([row for row, _ in labelled])
    with reporting() as report:
        try:
            number_classes(known, where=where)
            places = number_listed(names, known)
            numbers = torch.tensor(match_classes(known, places, where=where, known_as="the list of classes"))
        except UserError as error:
            found.notes.append(f"accuracy is not scored: {error}")
            return
        ranks = rank_of(x @ F.normalize(torch.stack(list(prompts.values())).mean(dim=0), dim=1).T, numbers)
        found.scores["top1"] = bootstrap(ranks < 1, chance=chance(numbers, len(names)))
        if len(names) > 5:
            found.scores["top5"] = bootstrap(ranks < 5, chance=chance(numbers, len(names), guesses=5))
        warn_of_templates(x, numbers, prompts, found.scores["top1"], plain)
    found.notes += report.warnings


def _has_shards(folder: Path) -> bool:
    return (folder / "index.json").is_file() or any(folder.glob("*.tar"))


class _Named(Examples):
    """Shards whose samples know what their files were called: `file` of the JSON, else the key."""

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Decodes the wanted keys, and adds the name as `__file__`."""
        sample, meta = super().open(entry, wanted), None
        with suppress(DamagedError):
            meta = decode("meta", entry.fields, {"meta": "json"})
        name = meta.get("file") if isinstance(meta, dict) else None
        return {**sample, "__file__": name if isinstance(name, str) and name else entry.key}


class _Folder(Source):
    """The images below a folder, each with the name of the folder it lies in for a label; notes what it passes over.

    `__key__` is the path below the folder.
    """

    def __init__(self, folder: Path, found: Predictions) -> None:
        self.folder, self.fields, self.damaged, self.shards = folder, {}, Counter(), [str(folder)]
        files, hidden = files_of(folder)
        self.files = [path for path in files if path.suffix.lower() in IMAGES]
        others = Counter(path.suffix.lower() or "no extension" for path in files if path.suffix.lower() not in IMAGES)
        others.update({"hidden": len(hidden)} if hidden else {})
        if others:
            described = ", ".join(f"{kind}: {count}" for kind, count in others.most_common())
            found.notes.append(f"passed over, as no images: {described}")

    def check(self, wanted: Collection[str]) -> None:
        """Accepts what is wanted: each image has itself and a label."""

    def share(self, rank: int, world: int) -> Iterator[Entry]:
        """Yields an entry without fields for each image of a rank."""
        for number in range(rank, len(self.files), world):
            yield Entry(str(self.files[number]), self.shards[0], {}, number=number)

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Reads the file; raises DamagedError where that is refused."""
        path = self.files[entry.number]
        label = path.parent.name if path.parent != Path() else None
        return {"image": _read(self.folder / path), "label": label, "__file__": entry.key}


def _read(path: Path) -> bytes:
    try:
        check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise DamagedError("a file that cannot be read", error.strerror or "") from None
