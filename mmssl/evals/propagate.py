"""Label propagation: masks and key points of a clip's first frame, carried to the others by similar cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.in_workers import in_workers
from mmssl.data.shards import Source
from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.annotated import VOID, Annotated, annotated
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.progress import passing
from mmssl.evals.parts.propagation import carried, ceiling, cells_of, moved
from mmssl.evals.parts.regions import boundary, jaccard
from mmssl.evals.parts.report import no_samples_error, usable
from mmssl.evals.parts.score import bootstrap, named
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.untrained import untrained
from mmssl.types import Encoder, Score, Trained, evaluating

Row = dict[str, float]  # figure of one object or key point -> value, by who answered it
Named = tuple[str, Row]  # of which clip and object or key point

SEEING = ("video", "image")
PCK = (0.1, 0.2, 0.3, 0.4, 0.5)


class Propagate(Declared):
    """J (region), F (boundary) and their mean J&F of masks per object, and PCK of key points, all without training.

    Protocol of Jabri et al., NeurIPS 2020, and Caron et al., ICCV 2021: cells copy the labels of the `topk` most
    similar ones of the first and `context` previous frames, within `radius` cells, by softmax(q.k / temperature).
    As the DAVIS evaluation has it, the first and the last frame do not count. Trivial is the first mask copied to
    every frame; chance are labels drawn at random with the frequencies of the first mask. `ceiling/` are the true masks
    of every frame, averaged over the cells of the grid and scaled up again: what the grid leaves possible.

    data: clips with masks or tracks.
    encoder: key of the one to judge, of videos or images.
    space: the task whose head the cells go through; without it they are the encoder's own.
    size: pixels of the frames' shorter side, the encoder's own by default; `film` leaves frames as they are.
    square: whether `size` is that of both sides, for encoders that take no other.
    window: frames that a video encoder sees at a time.
    grayscale: hide the colour, which tasks such as colour tracking never saw.
    context: previous frames, besides the first, whose cells are copied from.
    radius: cells around a cell's own place that are looked at.
    topk: most similar cells that are copied.
    temperature: of the softmax over their similarities.
    baselines: also judge the encoder with random weights.
    limit: samples at most, drawn from a fixed seed.
    seed: of what is random.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        encoder: str = "video",
        space: str | None = None,
        size: int | Literal["film"] | None = None,
        square: bool = False,
        window: int = 1,
        grayscale: bool = False,
        context: int = 7,
        radius: float = 12,
        topk: int = 5,
        temperature: float = 0.1,
        baselines: bool = False,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.source = limited(open_source(data), limit)
        self.encoder, self.space, self.size, self.square = encoder, space, size, square
        self.looks: dict[str, Any] = {"window": window, "grayscale": grayscale}
        self.copies: dict[str, Any] = {"context": context, "radius": radius, "topk": topk, "temperature": temperature}
        self.baselines, self.seed = baselines, seed

    def needs(self, trained: Trained) -> Needs:
        need = EncoderNeed(space=self.space, modalities=SEEING)
        side(require_encoder(trained, self.encoder, space=self.space, modalities=SEEING), self.size)
        return Needs(encoders={self.encoder: need}, data={"data": (self.source, _wanted(self.source))})

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields J&F, J and F of objects where there are masks, PCK@.1 to .5 of key points where there are tracks."""
        encoder = require_encoder(trained, self.encoder, space=self.space, modalities=SEEING)
        rivals = {"": encoder} | ({"random_init/": untrained(encoder, seed=self.seed)} if self.baselines else {})
        rows = self._rows(rivals)
        if not rows:
            raise no_samples_error("no clip of the evaluation data has masks or tracks that fit it")
        for prefix in (*rivals, "ceiling/"):
            yield from _scores(prefix, rows)

    def _rows(self, rivals: dict[str, Encoder]) -> list[Named]:
        """Returns one row of figures per object and per key point, of every process."""
        rows: list[Named] = []
        size = side(rivals[""], self.size)
        make = partial(annotated, size=size, square=self.square)
        samples = in_workers(self.source, _wanted(self.source), make, rank=dist.rank(), world=dist.world())
        for one in usable(passing(self.source, samples, world=dist.world())):
            assert one.value is not None
            with evaluating(*rivals.values()):
                cells = {
                    prefix: cells_of(rival, one.value.frames, space=None if prefix else self.space, **self.looks).cpu()
                    for prefix, rival in rivals.items()
                }
                found = self._objects(one.value, cells) | self._points(one.value, cells)
                rows += [(f"{one.about['__key__']}/{name}", row) for name, row in found.items()]
        return [row for part in dist.gather_objects(rows) for row in part]

    def _objects(self, clip: Annotated, cells: dict[str, Tensor]) -> dict[str, Row]:
        """Judges each object of the first mask."""
        if clip.masks is None:
            return {}
        masks = clip.masks.where(clip.masks != VOID, 0)
        answers = {prefix: carried(found, masks[0], **self.copies)[1:-1] for prefix, found in cells.items()}
        answers["ceiling/"] = ceiling(masks, cells[""].shape[1:3])[1:-1]
        answers["trivial/"] = masks[:1].expand_as(masks)[1:-1]
        drawn = torch.randint(masks[0].numel(), masks.shape, generator=torch.Generator().manual_seed(self.seed))
        answers["chance/"] = masks[0].flatten()[drawn][1:-1]
        return {
            f"object {name}": {
                f"{prefix}{figure}": value
                for prefix, answer in answers.items()
                for figure, value in agreement(answer == name, masks[1:-1] == name).items()
            }
            for name in masks[0].unique().tolist()
            if name
        }

    def _points(self, clip: Annotated, cells: dict[str, Tensor]) -> dict[str, Row]:
        """Judges each key point that is seen in the first frame and in a later one; distances are in pixels."""
        if clip.tracks is None or clip.visible is None:
            return {}
        pixels = torch.tensor([clip.frames.shape[3], clip.frames.shape[2]])
        seen = clip.visible[0] & clip.visible[1:].any(dim=0)
        tracks, visible = clip.tracks[:, seen], clip.visible[1:, seen]
        if not seen.any():
            return {}
        truth = tracks[1:] * pixels  # (T - 1, K, 2)
        extent = _extent(clip.tracks[1:] * pixels, clip.visible[1:])[:, None]  # (T - 1, 1)
        answers = {prefix: moved(found, tracks[0], **self.copies)[1:] for prefix, found in cells.items()}
        answers["trivial/"] = tracks[:1].expand_as(tracks)[1:]
        near = {prefix: (answer * pixels - truth).norm(dim=2) / extent for prefix, answer in answers.items()}
        hits = {f"{prefix}PCK@{a}": (d <= a).float() for prefix, d in near.items() for a in PCK}
        hits |= {
            f"chance/PCK@{a}": (math.pi * (a * extent) ** 2 / pixels.prod()).clamp(max=1).expand_as(visible)
            for a in PCK
        }
        means = {name: (hit * visible).sum(dim=0) / visible.sum(dim=0) for name, hit in hits.items()}
        return {
            f"point {number}": {name: float(mean[k]) for name, mean in means.items()}
            for k, number in enumerate(seen.nonzero()[:, 0].tolist())
        }


def side(encoder: Encoder, size: int | Literal["film"] | None) -> int | None:
    """Returns the size of frames, by default the encoder's own, None for the film's; UserError where it has none."""
    if size == "film":
        return None
    found = size or encoder.preprocess.config().get("size")
    if not isinstance(found, int):
        raise UserError(f"this {encoder.modality} encoder names no size of its images; say size")
    return found


def agreement(mine: Tensor, truth: Tensor) -> Row:
    """Returns J, F and their mean over the frames of one object's masks (T, H, W) bool."""
    j, f = float(jaccard(mine, truth).mean()), float(boundary(mine, truth).mean())
    return {"J&F": (j + f) / 2, "J": j, "F": f}


def _scores(prefix: str, rows: list[Named]) -> Iterator[tuple[str, Score]]:
    for figure in ("J&F", "J", "F", *(f"PCK@{a}" for a in PCK)):
        found = [(name, row) for name, row in rows if f"{prefix}{figure}" in row]
        if found:
            value, trivial, chance = (
                torch.tensor([row[f"{way}{figure}"] for _, row in found]) for way in (prefix, "trivial/", "chance/")
            )
            parts = named((name for name, _ in found), (row[f"{prefix}{figure}"] for _, row in found))
            trivial_mean, chance_mean = float(trivial.mean()), float(chance.mean())
            yield f"{prefix}{figure}", bootstrap(value, chance=chance_mean, trivial=trivial_mean, parts=parts)


def _extent(tracks: Tensor, visible: Tensor) -> Tensor:
    """Returns the longer side of the box around each frame's visible key points (T, K, 2), (T,), at least a pixel."""
    high = tracks.where(visible[..., None], -torch.inf).amax(dim=1)
    low = tracks.where(visible[..., None], torch.inf).amin(dim=1)
    return (high - low).amax(dim=1).clamp(min=1.0)


def _wanted(source: Source) -> set[str]:
    """Returns the keys to open: the clip, and what there is of masks, tracks and meta."""
    wanted = {"video"}
    for key in ("masks", "tracks", "meta"):
        with suppress(UserError):
            source.check({key})
            wanted.add(key)
    if not wanted & {"masks", "tracks"}:
        raise UserError(f"{source.shards[0]} has neither masks nor tracks; expected a field masks.npz or tracks.npz")
    return wanted


evaluation = Propagate
