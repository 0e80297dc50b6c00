"""Encodes a folder, a table or shards into a file of features; an interrupted encode goes on where it stopped."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmssl import dist
from mmssl.data.in_workers import WORKERS, Made, batches_in_workers, in_workers
from mmssl.data.index import write_json
from mmssl.data.shards import Source
from mmssl.data.user_source import UserFiles, open_data
from mmssl.data.windowed import Length, Windowed
from mmssl.errors import DamagedError, LackingError, UserError, did_you_mean
from mmssl.features.digest import digest_of, digest_of_encoder
from mmssl.features.files import About, Row, beside, kind_of, read_about, write_features
from mmssl.features.unfinished import Skipped, Unfinished, unfinished
from mmssl.files import replacing, together
from mmssl.loading import open_encoders
from mmssl.schema import fit, read_json
from mmssl.types import WINDOWS, Encoder, Preprocess, Sample, Span, evaluating, reading

Prepared = list[tuple[Span | None, Any]]  # a window, or None for all of it, and what `collate` takes


@dataclass(slots=True)
class Written:
    """What an encode has written.

    skipped: reason -> how many samples, or windows. notes: what else is worth telling.
    """

    path: Path
    rows: int
    dim: int
    skipped: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Says it in a line."""
        left = "; ".join(f"{reason}: {count}" for reason, count in self.skipped.items())
        where = f" ({beside(self.path, 'skipped.csv')})"
        skipped = f"; skipped {sum(self.skipped.values())}, {left}{where}" if left else "; nothing skipped"
        return f"{self.path}: {self.rows} rows of {self.dim} numbers{skipped}"


def encode_data(
    model: str,
    data: str,
    out: str | Path,
    *,
    space: str | None = None,
    encoder: str | None = None,
    window: float | None = None,
    stride: float | None = None,
    columns: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    workers: int = WORKERS,
    device: str | None = None,
    trust_code: bool = False,
    progress: bool = True,
) -> Written:
    """Encodes data and writes features with a name for each row; what cannot be read is skipped, counted and named.

    model: a run, an encoder's folder, a folder of transformers, or a name such as timm:resnet18.
    data: a folder of files or one file, a table (CSV, TSV, Parquet, JSONL), or shards.
    out: a file that ends in .npy, .csv, .parquet or .safetensors.
    space: a task, whose normalised joint embedding is written in place of pooled features.
    encoder: the key of an encoder, where a run has several that could read the data.
    window: seconds of each window that films and sounds are cut into; by default each is one row.
    stride: seconds from the start of one window to the next, by default the window's.
    columns: sample key -> column of a table. fields: sample key -> field of a sample. options: of a model made by name.
    batch_size: samples of one pass through the encoder, on average windows.
    workers: data processes, 0 for none. device: cpu or cuda, by default cuda where there is one.
    trust_code: allow the model's folder to name code outside mmssl.

    An interrupted encode leaves OUT.part, and the same call goes on from there. UserError where what is there, finished
    or not, was made by another model, of other data, or with other windows.
    """
    out = Path(out)
    kind_of(out)
    if stride is not None and window is None:
        raise UserError(f"stride {stride} says how far windows are apart; give window as well")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected at least 1")
    source = open_data(data, columns=columns, fields=fields)
    with dist.group(device) as chosen:
        if dist.world() > 1:
            raise UserError("encoding runs in one process; start it without torchrun")
        encoders = open_encoders(model, options or {}, device=str(chosen), trust_code=trust_code)
        key, reads = choose_encoder(encoders, source, encoder, window=window)
        net = encoders[key]
        if isinstance(source, UserFiles):
            source.pass_over_others(reads)
        check_space(net, space)
        weights = digest_of_encoder(net)
        digest = digest_of(weights, source, space=space, window=window, stride=stride, reads=reads)
        about = About(
            digest=digest, model=str(model), encoder=key, modality=net.modality, space=space, data=str(data)
        ) | About(weights=weights, window=window, stride=window if stride is None else stride)
        if done := _finished(out, digest):
            return done
        with unfinished(beside(out, "part"), digest) as work, evaluating(net):
            if window is not None:
                lengths = _lengths(work, source, reads, net.preprocess, workers=workers, progress=progress)
                source = Windowed(source, lengths, window=window, stride=stride)
            _fill(work, net, source, reads, space, batch_size=batch_size, workers=workers, progress=progress)
            return _finish(work, out, about, _notes(net.preprocess, window, source, work))


def choose_encoder(
    encoders: Mapping[str, Encoder], source: Source, asked: str | None, *, window: float | None
) -> tuple[str, str]:
    """Returns the key of the encoder that reads the data, and which key of a sample it reads.

    UserError where none does, and where several do and none is asked for; one that could read less than half of
    what another can is not counted. An image encoder reads films too.
    """
    if asked is not None and asked not in encoders:
        raise UserError(f"the model has no encoder {asked!r}; {did_you_mean(asked, encoders)}")
    found: dict[str, str] = {}
    errors: list[UserError] = []
    for key, encoder in encoders.items() if asked is None else [(asked, encoders[asked])]:
        own = encoder.preprocess.field
        films = ["video"] if encoder.modality == own == "image" else []
        for name in films if films and window is not None else [own, *films]:
            try:
                source.check({name})
            except UserError as error:
                errors.append(error)
            else:
                found.setdefault(key, name)
    if not found:
        raise errors[0] if len(encoders) == 1 else UserError(f"no encoder ({reading(encoders)}) reads it: {errors[0]}")
    if len(found) > 1 and isinstance(source, UserFiles):  # a readme beside photos is no reason to ask
        filled = {key: source.filled(name) for key, name in found.items()}
        found = {key: found[key] for key, count in filled.items() if 2 * count >= max(filled.values())}
    if len(found) > 1:
        raise UserError(f"several encoders can read it ({', '.join(found)}); say which by --encoder")
    return next(iter(found.items()))


def check_space(encoder: Encoder, space: str | None) -> None:
    """Raises UserError where an encoder has no such space."""
    if space is not None and space not in encoder.spaces:
        raise UserError(
            f"this {encoder.modality} encoder has no space {space!r}; {did_you_mean(space, encoder.spaces)}"
        )


def _finished(out: Path, digest: str) -> Written | None:
    """Returns what a file says that was made just so before; UserError where it was not."""
    if not out.exists():
        return None
    about = read_about(out) or {}
    if about.get("digest") != digest:
        raise UserError(
            f"{out} is there, by another model, or of other data or windows; remove it or choose another --out"
        )
    notes = ["it was there already, made by the same model of the same data"]
    return Written(out, about.get("rows", 0), about.get("dim", 0), about.get("skipped", {}), notes)


def _lengths(
    work: Unfinished, source: Source, reads: str, preprocess: Preprocess, *, workers: int, progress: bool
) -> list[Length]:
    """Returns how long each film or sound lasts, or why that is not known; measures it once."""
    path = work.folder / "lengths.json"
    if path.is_file():
        held: list[Length] = fit(read_json(path), list[Length], str(path))
        return held
    lengths: list[Length] = []
    made = in_workers(source, [reads], partial(_length, preprocess=preprocess, reads=reads), size=8, workers=workers)
    for one in tqdm(made, desc="measuring", total=source.count, unit="file", disable=not progress):
        lengths.append([one.error.reason, one.error.detail] if one.error else float(one.value or 0.0))
    write_json(path, lengths)
    return lengths


def _length(sample: Sample, *, preprocess: Preprocess, reads: str) -> float:
    return preprocess.duration(_given(sample, reads))


def _given(sample: Sample, reads: str) -> Any:
    if sample.get(reads) is None:
        raise LackingError(f"a sample without {reads}")
    return sample[reads]


def _prepare(sample: Sample, *, preprocess: Preprocess, reads: str) -> Prepared:
    """Returns what the encoder is shown of a sample; what stands in data is no mistake of the user's call."""
    raw, spans = _given(sample, reads), sample.get("__spans__")
    try:
        if spans is None:
            return [(None, preprocess(raw))]
        return list(zip(spans, preprocess.windows(raw, spans), strict=True))
    except UserError as error:
        reason, detail = (error.reason, error.detail) if isinstance(error, DamagedError) else (str(error), "")
        if spans is not None:
            detail = f"{detail} (from {spans[0][0]:g} to {spans[-1][1]:g} s)".strip()
        raise DamagedError(reason, detail) from None


def _collate(values: list[Prepared], *, preprocess: Preprocess) -> tuple[Any, list[list[Span | None]], Counter[str]]:
    """Returns a batch of all windows, which they are of each sample, and notes."""
    x = preprocess.collate([item for several in values for _, item in several])
    return x, [[span for span, _ in several] for several in values], preprocess.take_notes()


def _fill(
    work: Unfinished,
    encoder: Encoder,
    source: Source,
    reads: str,
    space: str | None,
    *,
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    """Encodes what is not done yet."""
    windowed = isinstance(source, Windowed)
    size = max(1, batch_size // WINDOWS) if windowed else batch_size
    prepare = partial(_prepare, preprocess=encoder.preprocess, reads=reads)
    collate = partial(_collate, preprocess=encoder.preprocess)
    parts = batches_in_workers(source, [reads], prepare, collate, size=size, workers=workers, start=work.done)
    name = partial(_name, source=source)
    unit = f" x {WINDOWS} windows" if windowed else "sample"
    with tqdm(desc="encode", total=source.count, initial=work.done, unit=unit, disable=not progress) as bar:
        for made, batch in parts:
            skipped = [(name(one), one.error.reason, one.error.detail) for one in made if one.error]
            x, spans, notes = (None, [], {}) if batch is None else batch
            kept = zip((one for one in made if not one.error), spans, strict=True)
            rows: list[Row] = [(name(one), span) for one, several in kept for span in several]
            features = None
            if x is not None:
                with torch.inference_mode():
                    features = encoder.embed(x.to(encoder.device), space=space).float().cpu().numpy()
            work.add(made[-1].place + 1, features, rows, skipped, notes)
            bar.update(len(made))
    work.commit()


def _name(one: Made[Any], *, source: Source) -> str:
    """Returns what a row is called: the path of a file, or SHARD/KEY."""
    inner = source.source if isinstance(source, Windowed) else source
    key, shard = one.about["__key__"], one.about["__shard__"]
    name = key if isinstance(inner, UserFiles) else f"{Path(shard).name}/{key}" if key else shard
    return str(name).encode("utf-8", "backslashreplace").decode()  # file names in other encodings can be written


def _notes(preprocess: Preprocess, window: float | None, source: Source, work: Unfinished) -> list[str]:
    """Returns what is worth telling of an encode, however it was interrupted."""
    notes = [f"{note}: {count}" for note, count in work.notes.items()]
    span = preprocess.span
    if window is not None and span is not None and abs(span - window) > 0.01 * window:
        notes.append(f"the encoder reads {span:g} s about the middle of each window of {window:g} s")
    inner = source.source if isinstance(source, Windowed) else source
    passed = inner.passed_over.most_common() if isinstance(inner, UserFiles) else []
    if passed:
        notes.append(f"passed over, as no data: {', '.join(f'{kind}: {count}' for kind, count in passed)}")
    return notes


def _finish(work: Unfinished, out: Path, about: About, notes: list[str]) -> Written:
    """Writes everything to its place and removes what it was made of."""
    work.commit()
    skipped = dict(Counter(reason for _, reason, _ in work.skipped()).most_common())
    if not work.count:
        some: Iterable[Skipped] = work.skipped()
        first = next(iter(some), ("", "", ""))
        work.remove()
        raise UserError(f"none of the samples can be encoded: {'; '.join(skipped)} (such as {first[0]}: {first[2]})")
    about |= About(rows=work.count, dim=work.dim, skipped=skipped)
    with together():
        _write_skipped(beside(out, "skipped.csv"), list(work.skipped()))
        write_features(out, work.features(), work.rows, about)
    work.remove()
    return Written(out, work.count, work.dim, skipped, notes)


def _write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    if not skipped:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    with replacing(path) as temporary, temporary.open("x", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "reason", "detail"), *skipped])
