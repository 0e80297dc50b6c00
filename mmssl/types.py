"""The contracts between the rooms: what a sample, a batch, an encoder, a method and an evaluation are."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from mmssl.errors import UserError, did_you_mean

Sample = dict[str, Any]
"""One opened example: modality -> PIL image, Video, Audio, Cloud or str, and after the View -> tensor."""


@dataclass(slots=True)
class Ragged:
    """Rows of several samples, any number of each: points, words, nodes, boxes.

    values: (sum N, ...) packed, one sample's rows behind the other's; or padded to the longest, (B, L, ...).
    lengths: (B,) int64, the rows of each sample.
    padded: whether values are.
    """

    values: Tensor
    lengths: Tensor
    padded: bool = False

    @staticmethod
    def pack(rows: Sequence[Tensor]) -> Ragged:
        """Packs one tensor (N, ...) of each sample."""
        return Ragged(torch.cat(list(rows)), torch.tensor([len(each) for each in rows]))

    @staticmethod
    def pad(rows: Sequence[Tensor]) -> Ragged:
        """Pads one tensor (N, ...) of each sample with zeros to the longest."""
        values = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return Ragged(values, torch.tensor([len(each) for each in rows]), padded=True)

    @staticmethod
    def cat(parts: Sequence[Ragged]) -> Ragged:
        """Returns several batches, all packed or all padded to one length, as one with the samples of all of them."""
        values, lengths = torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts])
        return Ragged(values, lengths, parts[0].padded)

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.values.device

    @property
    def starts(self) -> Tensor:
        """The first packed row of each sample (B,)."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def sample(self) -> Tensor:
        """The sample of each packed row (sum N,)."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return rows.repeat_interleave(self.lengths, output_size=len(self.values))

    @property
    def mask(self) -> Tensor:
        """Which padded rows are a sample's own (B, L) bool."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def split(self) -> list[Tensor]:
        """Returns the rows (N, ...) of each sample; waits for the device."""
        lengths = self.lengths.tolist()
        if self.padded:
            return [row[:length] for row, length in zip(self.values, lengths, strict=True)]
        return list(self.values.split(lengths))

    def map(self, change: Callable[[Tensor], Tensor]) -> Ragged:
        """Returns both tensors changed by a function."""
        return Ragged(change(self.values), change(self.lengths), self.padded)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Ragged:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Ragged:
        return self.map(lambda tensor: tensor.pin_memory())


@dataclass(slots=True)
class Batch:
    """What one step of one task sees.

    views: modality -> one input per view. image (B, 3, H, W) and video (B, 3, T, H, W) are uint8 or
        float in [0, 1]; audio (B, samples) float; text Ragged, padded: token ids (B, L) int64; points Ragged, packed:
        (sum N, C) float, x, y, z in metres, then features. Anything else that has `to`, as tensors have it, and
        `pin_memory` may stand there, such as a batch of graphs of PyTorch Geometric.
    places: modality -> one affine map per view from its coordinates to the source's: of images and videos (B, 2, 3),
        from x and y in 0 to 1 to pixels; of point clouds (B, 3, 4), in metres.
    fields: modality -> name -> what moved with each view: masks, depth, flow (B, ...), boxes, key points (Ragged).
    target: the pretext answer; never a human label.
    extra: matches, ... and for each modality `<modality>_present` (B,) bool; `index` (B,), each sample's
        number in the training set, where its shards are counted; `seed` (B,), what its own masks are drawn from.
    """

    views: dict[str, list[Any]]
    target: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, list[Tensor]] = field(default_factory=dict)
    fields: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def present(self, modality: str) -> Tensor:
        """Returns which samples have the modality, (B,) bool; all of them where nothing is said."""
        given = self.extra.get(f"{modality}_present")
        first = self.views[modality][0]
        return torch.ones(len(first), dtype=torch.bool, device=first.device) if given is None else given

    def map(self, change: Callable[[Any], Any]) -> Batch:
        """Returns a batch with every tensor, also those of a Ragged, and what stands for one changed by a function."""

        def changed(value: Any) -> Any:
            return value.map(change) if isinstance(value, Ragged) else change(value)

        return Batch(
            {name: [changed(view) for view in views] for name, views in self.views.items()},
            None if self.target is None else change(self.target),
            {name: change(value) for name, value in self.extra.items()},
            {name: [change(place) for place in places] for name, places in self.places.items()},
            {
                name: {key: [changed(value) for value in values] for key, values in fields.items()}
                for name, fields in self.fields.items()
            },
        )

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on the device; pinned memory is copied without waiting."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory (the data loader calls this)."""
        return self.map(lambda value: value.pin_memory())


@dataclass(slots=True)
class Features:
    """What an encoder makes of a batch.

    pooled: (B, D).
    tokens: (B, N, D) cells, patches, frames or words; points are packed, (sum N, D), with lengths.
    grid: (H, W) or (T, H, W) when the tokens lie on one, N = the product.
    lengths: (B,) when tokens are packed, or padded to the longest.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    grid: tuple[int, ...] | None = None
    lengths: Tensor | None = None

    def split(self, samples: int) -> list[Features]:
        """Returns those of several views that passed one behind the other, each of this many samples.

        Packed tokens wait for the device.
        """
        pooled = self.pooled.split(samples)
        lengths = [None] * len(pooled) if self.lengths is None else self.lengths.split(samples)
        if self.tokens is None:
            tokens: Sequence[Tensor | None] = [None] * len(pooled)
        elif self.tokens.ndim == 3:
            tokens = self.tokens.split(samples)
        else:
            assert self.lengths is not None, "packed tokens have lengths"
            tokens = self.tokens.split(self.lengths.view(-1, samples).sum(dim=1).tolist())
        return [Features(p, t, self.grid, n) for p, t, n in zip(pooled, tokens, lengths, strict=True)]


def _flatten(features: Features) -> tuple[list[Tensor], list[Any]]:
    """Returns the tensors, and their names and the grid by which they become features again."""
    tensors = {name: getattr(features, name) for name in ("pooled", "tokens", "lengths")}
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return [*found.values()], [[*found], features.grid and [*features.grid]]


def _unflatten(tensors: Iterable[Any], context: list[Any]) -> Features:
    names, grid = context
    return Features(**dict(zip(names, tensors, strict=True)), grid=grid and tuple(grid))


# So that torch.export, torch.func, FSDP, ... find the tensors.
register_pytree_node(Features, _flatten, _unflatten, serialized_type_name="mmssl.types.Features")


@dataclass(slots=True)
class Loss:
    """What an objective returns: `total` to differentiate, `logs` to show, `embeddings` to monitor.

    logs: name -> scalar, NaN where it was averaged over nothing. Watched are `chance_loss`, what guessing costs, and
        `assignment_entropy`, how evenly clusters are used, from 0 to 1.
    embeddings: modality -> (B, D) detached; collapse and the gap between modalities are read off them.
    rows: how many rows of all processes `total` was averaged over by dist.mean, 0 where it says nothing; filled in
        by the run.
    answers: name -> (B,) float detached, how each sample was answered (`correct`: 1 or 0), NaN where it was not
        asked; evaluations of the pretext read them.
    """

    total: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    answers: dict[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None


@dataclass(slots=True, frozen=True)
class Score:
    """One measured figure with its 95% bootstrap interval, the level of chance, and how many it is over.

    trivial: what an answer without learning reaches on the same samples, where an evaluation measures one.
    parts: the figure of each class, sequence, object or pair, by name, where an evaluation tells them.
    """

    value: float
    low: float
    high: float
    chance: float
    n: int
    trivial: float | None = None
    parts: Mapping[str, float] | None = None

    def __float__(self) -> float:
        return self.value


@dataclass(slots=True, frozen=True)
class Reconstruction:
    """What a task draws of a batch: images (B, 3, H, W) or videos (B, 3, T, H, W), floats from 0 to 1; or spectrograms
    (B, 1, F, T), as their encoder normalises them.

    shown: what the network saw, grey where nothing. drawn: what came of it; where it need not draw, the truth. truth.
    """

    shown: Tensor
    drawn: Tensor
    truth: Tensor


Span = tuple[float, float]
"""A window of a film or sound: where it starts and ends, in seconds."""


def window_spans(duration: float, window: float, stride: float | None = None) -> list[Span]:
    """Returns windows of this many seconds, one every `stride` (by default the window itself), over a duration.

    What is left at the end gets a window that ends there, if it is more than half a stride; what is shorter than a
    window is one. UserError for a window or stride that is not above 0.
    """
    stride = window if stride is None else stride
    if not (0 < window < math.inf and 0 < stride < math.inf):
        raise UserError(f"window is {window} and stride {stride}; expected seconds above 0")
    if duration <= window:
        return [(0.0, duration)]
    count = int((duration - window) / stride + 1e-6) + 1
    spans = [(i * stride, i * stride + window) for i in range(count)]
    left = duration - spans[-1][1] - max(0.0, stride - window)
    return [*spans, (duration - window, duration)] if left > stride / 2 else spans


class Preprocess:
    """What one raw input becomes before an encoder sees it: deterministic, picklable, saved with the weights.

    Subclasses are dataclasses of plain values, one per modality, so `config` is their fields.
    """

    modality: ClassVar[str]
    _field = ""

    @property
    def field(self) -> str:
        """The field of a sample that it reads: its modality's, unless a recipe says another (`field:`)."""
        return self._field or self.modality

    @field.setter
    def field(self, name: str) -> None:
        self._field = name

    def __call__(self, raw: Any) -> Any:
        """Turns a raw input (path, bytes, array, opened example) into what `collate` takes."""
        raise NotImplementedError

    def items(self, inputs: Any) -> list[Any]:
        """Returns a list of raw inputs, whether one or several were given."""
        return list(inputs) if isinstance(inputs, list | tuple | Iterator) else [inputs]

    def collate(self, items: Sequence[Any]) -> Any:
        """Makes one batch of several prepared inputs: a tensor, a Ragged, or what else Batch.views may hold."""
        return torch.stack(list(items))

    @property
    def span(self) -> float | None:
        """Seconds of a film or sound that are read; None for all of it, and of what has no time."""
        return None

    def duration(self, raw: Any) -> float:
        """Returns how long a film or sound lasts, in seconds; UserError for what has no time."""
        raise UserError(f"{self.modality} has no time to cut windows from; leave the window out")

    def windows(self, raw: Any, spans: Sequence[Span]) -> list[Any]:
        """Returns what `collate` takes of each window of a film or sound: `span` seconds about its middle, or all of
        the window where `span` is None.
        """
        raise UserError(f"{self.modality} has no time to cut windows from; leave the window out")

    def blank(self) -> Any:
        """Returns the stand-in for a sample that lacks this modality."""
        raise NotImplementedError

    def take_notes(self) -> Counter[str]:
        """Returns what is worth telling since the last call (truncated texts, say), and forgets it."""
        return Counter()

    def config(self) -> dict[str, Any]:
        """Returns the plain values that make this object again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


class Head(nn.Module):
    """Takes an encoder's Features to a task's embedding: one per sample (B, D), or one per token where the task
    matches tokens, laid out as Features.tokens are. `Head(dim, **options)` builds it; `config` holds both.
    """

    def forward(self, features: Features) -> Tensor:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Returns the plain arguments that make this head again, `dim` among them."""
        raise NotImplementedError


Spaces = dict[str, Head]


@dataclass(slots=True, frozen=True)
class Joint:
    """What an encoder brings from a trained two-tower model of which it is one.

    model: which one it is; towers of one model name the same.
    head: from Features to the model's joint embedding. An objective that goes on in that space trains this very head.
    dim: of the joint embedding.
    scale, bias: of the model's logits, None where it has none.
    """

    model: str
    head: Head
    dim: int
    scale: float | None = None
    bias: float | None = None


class Encoder(nn.Module):
    """One modality's network: `forward(x)` takes what `preprocess` collates and returns Features.

    modality: what it reads.
    dim: D of its features.
    preprocess: raw input -> x.
    spaces: task name -> head from Features to that task's normalised joint embedding. The heads are trained by, and
        belong to, the tasks' objectives; an encoder only knows them.
    joint: what it brings from a trained two-tower model, if it is of one.
    brought: space -> weights of the head that `train.start` found beside the encoder's own; an objective may begin
        with them.
    """

    modality: str
    dim: int
    preprocess: Preprocess
    name: str = ""
    options: dict[str, Any]
    joint: Joint | None = None

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "spaces", {})
        self.brought: Mapping[str, Mapping[str, Tensor]] = {}

    spaces: Spaces

    def forward(self, x: Any) -> Features:
        raise NotImplementedError

    def learn_preprocess(self, raws: Iterable[Any]) -> None:
        """Learns from raw training inputs what preprocessing needs (a tokenizer's merges); most need nothing."""

    @property
    def learns_preprocess(self) -> bool:
        """Whether `learn_preprocess` must run before training."""
        return False

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        """Returns what building it with these options reads from the network or from files of elsewhere; "" is nothing.

        options: `variant` among them. Those of `config` read nothing.
        """
        return ""

    def config(self) -> dict[str, Any]:
        """Returns the name and options that build this architecture again, without weights or files."""
        return {"name": self.name, "options": copy.deepcopy(self.options)}

    def published(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a backbone's weights, named as torchvision names a ResNet or timm a ViT, under its own names."""
        return weights

    def save_files(self, folder: Path) -> None:
        """Writes what the architecture needs besides weights and config (a tokenizer)."""

    def load_files(self, folder: Path) -> None:
        """Reads back what `save_files` wrote."""

    def take_fixed(self, trained: Encoder) -> None:
        """Takes over from one of the same kind what never learns, where random weights are judged beside it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder:
        for head in self.spaces.values():
            head._apply(fn)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Encoder:
        for head in self.spaces.values():
            head.train(mode)
        return super().train(mode)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def embed(self, x: Any, *, space: str | None = None) -> Tensor:
        """Embeds one prepared batch: pooled features (B, D), or the joint embedding of the task `space`."""
        features = self(x)
        if space is None:
            return features.pooled
        if space not in self.spaces:
            raise UserError(f"this {self.modality} encoder has no space {space!r}; {did_you_mean(space, self.spaces)}")
        return self.spaces[space](features)

    @overload
    def encode(self, inputs: Any, *, space: str | None = None, batch_size: int = 64) -> Tensor: ...
    @overload
    def encode(
        self,
        inputs: Any,
        *,
        space: str | None = None,
        batch_size: int = 64,
        errors: Literal["raise", "skip"],
        window: float | None = None,
        stride: float | None = None,
    ) -> Encoded: ...
    @overload
    def encode(
        self,
        inputs: Any,
        *,
        space: str | None = None,
        batch_size: int = 64,
        window: float,
        stride: float | None = None,
    ) -> Encoded: ...
    def encode(
        self,
        inputs: Any,
        *,
        space: str | None = None,
        batch_size: int = 64,
        errors: Literal["raise", "skip"] | None = None,
        window: float | None = None,
        stride: float | None = None,
    ) -> Tensor | Encoded:
        """Embeds raw inputs without gradients.

        inputs: one or a list of paths, bytes, arrays or opened examples (images also as PIL or tensors).
        space: a task, whose normalised joint embedding is returned in place of pooled features.
        errors: "raise" stops at the first that cannot be read, "skip" leaves those out and names them.
        window: seconds of each window that films and sounds are cut into; by default each is one row.
        stride: seconds from the start of one window to the next, by default the window's.
        Returns (N, D) float32 on the CPU; where `errors` or `window` is given Encoded, which says what each row is.
        UserError for one that cannot be read, DamagedError for a damaged one; they name its path, or its place in the
        list.
        """
        items = self.preprocess.items(inputs)
        if not items:
            raise UserError("nothing to encode: the list of inputs is empty")
        if stride is not None and window is None:
            raise UserError(f"stride={stride} says how far windows are apart; give window as well")
        names = [_name(raw, self.modality) or f"inputs[{number}]" for number, raw in enumerate(items)]
        skipped: dict[int, str] = {}
        prepared = self._prepared(items, skipped if errors == "skip" else None, window, stride)
        rows: list[Tensor] = []
        made: list[tuple[int, Span | None]] = []
        with torch.inference_mode(), evaluating(self):
            while batch := list(islice(prepared, batch_size)):
                x = self.preprocess.collate([item for _, _, item in batch]).to(self.device)
                rows.append(self.embed(x, space=space).float().cpu())
                made += [(number, span) for number, span, _ in batch]
        if not rows:
            raise UserError(f"none of the {len(items)} inputs can be read; {names[0]}: {skipped[0]}")
        features = torch.cat(rows)
        if errors is None and window is None:
            return features
        spans = None if window is None else torch.tensor([span for _, span in made], dtype=torch.float64)
        inputs_of = torch.tensor([number for number, _ in made])
        told = {names[number]: reason for number, reason in skipped.items()}
        return Encoded(features, [names[number] for number, _ in made], inputs_of, spans, told)

    def _prepared(
        self, items: Sequence[Any], skipped: dict[int, str] | None, window: float | None, stride: float | None
    ) -> Iterator[tuple[int, Span | None, Any]]:
        """Yields each input's number, window and what `collate` takes; notes why one is skipped, or raises that."""
        for number, raw in enumerate(items):
            try:
                if window is None:
                    yield number, None, self.preprocess(raw)
                    continue
                spans = window_spans(self.preprocess.duration(raw), window, stride)
                for start in range(0, len(spans), WINDOWS):
                    part = spans[start : start + WINDOWS]
                    for span, item in zip(part, self.preprocess.windows(raw, part), strict=True):
                        yield number, span, item
            except UserError as error:
                if skipped is not None:
                    skipped[number] = str(error)
                    continue
                path = _name(raw, self.modality)
                if not path or repr(path) not in str(error):
                    error.args = (f"{repr(path) if path else f'inputs[{number}]'}: {error}",)
                raise


WINDOWS = 8  # windows of a film that are decoded at a time


def _name(raw: Any, modality: str) -> str:
    """Returns the path that an input is, or nothing."""
    return str(raw) if isinstance(raw, Path) or (isinstance(raw, str) and modality != "text") else ""


@dataclass(slots=True)
class Encoded:
    """What `Encoder.encode` makes of inputs of which some are skipped, or that are cut into windows.

    features: (N, D) float32 on the CPU.
    names: of each row its input's path, or inputs[i].
    inputs: (N,) int64, the place of each row's input among all.
    spans: (N, 2) float64, start and end of each row's window in seconds; None without windows.
    skipped: name of an input that cannot be read -> why. Of one that fails in the middle the windows before stay.
    """

    features: Tensor
    names: list[str]
    inputs: Tensor
    spans: Tensor | None
    skipped: dict[str, str]


def reading(encoders: Mapping[str, Encoder]) -> str:
    """Returns the encoders' keys, and what each reads, for a message."""
    return ", ".join(f"{key} (of {encoder.modality})" for key, encoder in encoders.items())


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Puts modules, and the heads that encoders know, in evaluation mode and back to what each was in."""
    heads = [head for module in modules if isinstance(module, Encoder) for head in module.spaces.values()]
    before = [(part, part.training) for module in (*modules, *heads) for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


@dataclass(slots=True)
class Patches:
    """What a TokenEncoder cuts a batch into, one for each token: the one place that knows what masked methods predict.

    values: (B, N, P) as the network sees them, normalised: pixels, tubelets of a video, cells of a spectrogram.
    grid: (H, W), (T, H, W) or (F, T), how they lie; N = the product.
    """

    values: Tensor
    grid: tuple[int, ...]


class TokenEncoder(Encoder):
    """An encoder whose tokens can be dropped or replaced before it runs: what masked methods need.

    cell: a patch's extent on the axes of the grid, (height, width) in pixels, before them frames; bands by frames of
    a spectrogram. patch_dim: P, its numbers. One around another encoder raises UserError for cell where that has none.
    """

    @property
    def cell(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def patch_dim(self) -> int:
        raise NotImplementedError

    def patches(self, x: Tensor) -> Patches:
        """Cuts what `preprocess` collates into patches."""
        raise NotImplementedError

    def joined(self, patches: Patches) -> Tensor:
        """Puts patches together again, as Reconstruction has them: undoes `patches`."""
        raise NotImplementedError

    def tokenize(self, patches: Patches, *, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """Returns position-coded tokens (B, N, D).

        mask: (B, N) bool, where the token's content is replaced by mask_token (D,), before its place is added.
        """
        raise NotImplementedError

    def encode_tokens(self, tokens: Tensor) -> Features:
        """Encodes any subset of tokens (B, n, D); the features' tokens are in the same order."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Features:
        patches = self.patches(x)
        features = self.encode_tokens(self.tokenize(patches))
        features.grid = patches.grid
        return features


class Transform:
    """One step of a view: a class of keyword options, which recipes override by its name. Subclass those of
    mmssl.transforms.base, which say what a step works on; on inputs of one's own modality, subclass this.

    modalities: those of image, video, audio and points that it works on; none for one's own.
    """

    modalities: ClassVar[tuple[str, ...]] = ()

    def __call__(self, raw: Any) -> Any:
        """Returns a changed example, as it was opened, in a data worker."""
        raise NotImplementedError

    def of_view(self, number: int, views: int) -> Transform:
        """Returns the step as one of several views has it."""
        return self


class WordEncoder(Encoder):
    """An encoder of texts whose tokens can be predicted: what methods need that write captions or fill in words."""

    @property
    def table(self) -> Tensor:
        """The embedding of every token that it knows, (V, D); raises UserError where these are not of its width."""
        raise NotImplementedError


class View:
    """What the network is shown: `__call__` on one sample in the data worker, `on_device` on a batch.

    preprocess: encoder's key -> its preprocessing, in data workers. whole: the same of every encoder, also of those
    whose views the device makes from another's. reads: the fields that a sample is opened with, by default
    the encoders' keys. shows: how many views each modality has where that is not one. progress: how far
    training is, 0 to 1, set before `on_device`. Randomness comes from the global generators of random, numpy and
    torch, which the worker seeds for each sample. guards: what keeps shortcuts away, each with the options that
    would let it down; evaluations show what the task would then be worth. aligned: what of a sample moves with its
    views, name -> kind.
    """

    guards: Mapping[str, Mapping[str, Any]] = {}
    aligned: Mapping[str, str] = {}

    def __init__(self, preprocess: Mapping[str, Preprocess]) -> None:
        self.preprocess, self.whole = dict(preprocess), dict(preprocess)
        self.reads: tuple[str, ...] = tuple(preprocess)
        self.shows: dict[str, int] = {}
        self.progress = 0.0

    def __call__(self, sample: Sample) -> Sample:
        """Returns modality -> list of prepared views; a sample lacks the modalities that it lacks.

        Besides, `target`: a tensor, and `extra`: name -> tensor, of one shape for all samples, are stacked into
        the batch's, as are `places` and `fields`, by modality as a Batch has them.
        Raises DamagedError for a sample that cannot be shown, LackingError for a whole one that lacks what the task
        needs; it is skipped and counted.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError for options that leave the task nothing to learn; a run asks before it starts."""

    def blanks(self, modality: str) -> list[Any]:
        """Returns what stands in for a modality's views in a sample that lacks it."""
        return [self.preprocess[modality].blank()] * self.shows.get(modality, 1)

    def blank_places(self, modality: str) -> list[Tensor]:
        """Returns what stands in for the places of its views in a batch in which no sample has the modality."""
        return []

    def blank_fields(self, modality: str) -> dict[str, list[Any]]:
        """Returns the same for what moves with its views, by name."""
        return {}

    def holds(self) -> tuple[str, str]:
        """Returns the one key that is shown, and the field of its images, for a loader that keeps them in memory.

        UserError where more than a whole image is needed to make the views on the accelerator.
        """
        raise UserError(f"in_memory: {type(self).__name__} makes its views in data workers alone; leave it out")

    def cut(self, batch: Batch) -> Batch:
        """Returns the views, with their places, of a batch that shows whole images uint8 (B, 3, H, W), on its device.

        So are views made of images held in memory, in place of `__call__`.
        """
        raise NotImplementedError

    def on_device(self, batch: Batch) -> Batch:
        """Changes a whole batch on the accelerator; by default nothing."""
        return batch


class ViewTemplate:
    """Views as a value: options change it, and called with encoders' preprocessing it builds a View."""

    def changed(self, options: Mapping[str, Any], where: str = "") -> ViewTemplate:
        """Returns a template with options, nested as in a recipe; UserError for one that it has not."""
        raise NotImplementedError

    def describe(self, prefix: str = "") -> Iterator[Any]:
        """Yields every option, a mmssl.options.Option, its name dotted behind a prefix."""
        raise NotImplementedError

    def __call__(self, preprocess: Mapping[str, Preprocess], **options: Any) -> View:
        raise NotImplementedError


@dataclass(slots=True, frozen=True)
class Epoch:
    """A pass over a task's training set that begins, and what its objective may look at before its first step.

    number: of the pass, from 0.
    batches: yields this process's training batches, as the view shows them, without end; those taken are spent.
    sweep: yields this process's share of the set once, as the encoders' preprocessing shows it, with extra["index"].
    """

    number: int
    batches: Callable[[], Iterator[Batch]]
    sweep: Callable[[], Iterator[Batch]]


class Objective(nn.Module):
    """What the network is asked; owns heads, queues and teachers, and never the encoders.

    One of the run's encoders that does not learn here is frozen as the objective is built; its weights must then come
    from train.start, or be published ones.

    modalities: the encoders that it needs, by default any. uses: those that its batches hold.
    """

    modalities: ClassVar[tuple[str, ...]] = ()
    uses: tuple[str, ...]

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.uses = self.modalities or tuple(encoders)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        raise NotImplementedError

    def view_options(self) -> dict[str, Any]:
        """Returns the options of its view that follow from its own, nested as in a recipe; a recipe says them once."""
        return {}

    def check_view(self, view: View) -> None:
        """Raises UserError for a view that does not show what it needs, when the run is assembled."""

    def choose(self, labels: Callable[[str], Mapping[int, int]]) -> Collection[int] | None:
        """Returns the numbers of the training samples that it is shown, None for all; asked as a run is assembled.

        labels: a field -> the class of each sample that has it, by the sample's number; for semi-supervised learning.
        """
        return None

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Learns from training data before each pass over it: once (bins of colours), or again (offline clustering).

        What is learnt stands in buffers, and is the same on every process: a resumed run asks before its next pass.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns weights that need options of their own: groups as torch's optimizers take them.

        `params`, and any of the optimizer's options, such as `weight_decay`; `final_lr` is that of train.
        """
        return []

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        """Updates state after the optimizer's step: EMA, queue, centre. progress runs from 0 to 1."""

    def spaces(self) -> Spaces:
        """Returns modality -> head from Features to this task's normalised joint embedding.

        `modality/part` is a further one, which the encoder knows as `task_part`.
        """
        return {}

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction | None:
        """Returns what it draws of a batch, for people to look at; None for a task that draws nothing."""
        return None

    def extra_encoders(self) -> dict[str, Encoder]:
        """Returns key -> encoder (`image_teacher`): its own that are judged and saved beside those of the run."""
        return {}


@dataclass(slots=True, frozen=True)
class Method:
    """What a file in methods/ exports: what the network is shown and what it is asked."""

    view: Callable[..., View]
    objective: type[Objective]


@dataclass(slots=True, frozen=True)
class Pretext:
    """A task as a run trained it: its objective, and its view with the options that it had."""

    objective: Objective
    view: Callable[..., View]
    options: dict[str, Any]

    def show(self, encoders: Mapping[str, Encoder], **changed: Any) -> View:
        """Builds the view for the encoders that the objective uses, some options changed, and checks that they agree.

        changed: nested as in a recipe.
        """
        preprocess = {key: encoders[key].preprocess for key in self.objective.uses}
        given = self.objective.view_options()
        check_agreed(given, self.options)
        made = self.view(preprocess, **merged(merged(given, self.options), changed))
        self.objective.check_view(made)
        return made


def check_agreed(given: Mapping[str, Any], options: Mapping[str, Any], where: str = "view") -> None:
    """Raises UserError for options of a view that contradict those that follow from its objective."""
    for key, value in given.items():
        own = options.get(key, value)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            check_agreed(value, own, f"{where}.{key}")
        elif own != value:
            raise UserError(f"{where}.{key} is {own!r}, but the objective makes it {value!r}; leave it out")


def merged(options: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of which some are changed, mappings within mappings one by one."""
    found = dict(options)
    for key, value in changed.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


@dataclass(slots=True, frozen=True)
class Trained:
    """What an evaluation judges: encoders by key and, where they come from a run, its tasks by name."""

    encoders: Mapping[str, Encoder]
    tasks: Mapping[str, Pretext] = field(default_factory=dict)

    def task(self, name: str) -> Pretext:
        """Returns a task; UserError for one that the run has not."""
        if name not in self.tasks:
            raise UserError(f"there is no task {name!r} to judge; {did_you_mean(name, self.tasks)}")
        return self.tasks[name]


class Evaluation:
    """Judges what was trained: a constructor of keyword-only options, and `run`. Subclass it."""

    def check(self, trained: Trained) -> None:
        """Raises UserError where what is trained, or the data, lacks what `run` needs: an encoder, a space, a task, a
        field, classes that meet. It is asked before a run's first step, and must be quick; by default nothing.
        """

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields figures by name; samples that are damaged are left out (mmssl.evals.parts.report)."""
        raise NotImplementedError
