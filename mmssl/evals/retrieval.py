"""Retrieval between two modalities, both directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl.data.subset import limited
from mmssl.evals.parts.needs import EncoderNeed, Needs
from mmssl.evals.parts.score import bootstrap, named, parted, rising
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import embed_stream, show_some
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.transforms.pairs import at_path
from mmssl.types import Encoder, Score, Trained

CHUNK = 1024


class Retrieval(WithUntrained):
    """Recall among all candidates and median rank; a sample may have several texts (1:N), any of which counts.

    Ties count against the right one. The median rank keeps the rank of each query; `<key>/<n>` is text n of several.

    data: shards (and fields) with both modalities.
    modalities: the two, query and candidate of the first direction.
    space: the task whose joint embedding is used.
    k: the cut-offs of recall.
    bins: what numbers of `meta` part the queries, such as {overlap: [0.3, 0.6], angle: [15]} of pairs of scans; recall
        is then told of each bin too, among all candidates.
    baselines: also judge the encoders with random weights.
    limit: samples at most, drawn from a fixed seed.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        modalities: tuple[str, str] = ("image", "text"),
        space: str = "clip",
        k: tuple[int, ...] = (1, 5, 10),
        bins: dict[str, list[float]] | None = None,
        baselines: bool = False,
        limit: int | None = None,
    ) -> None:
        self.source, self.baselines = limited(open_source(data), limit), baselines
        self.modalities, self.space, self.k = modalities, space, k
        self.bins = {name: rising(f"bins.{name}", edges) for name, edges in (bins or {}).items()}

    def needs(self, trained: Trained) -> Needs:
        need = EncoderNeed(space=self.space)
        read = [trained.encoders[key].preprocess.field if key in trained.encoders else key for key in self.modalities]
        reads = tuple(dict.fromkeys([*read, *["meta"][: len(self.bins)]]))
        return Needs(encoders=dict.fromkeys(self.modalities, need), data={"data": (self.source, reads)})

    def warm(self, fresh: Trained) -> None:
        for key in self.modalities:
            show_some(fresh.encoders[key], self.source, space=self.space)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields <a>-<b>/R@k and <a>-<b>/median_rank for both directions, and R@k of each bin."""
        first, second = self.modalities
        ((a, owner_a, names_a), (b, owner_b, names_b)), metas = self._embed(trained.encoders)
        ways = {f"{first}-{second}": (a, owner_a, b, owner_b), f"{second}-{first}": (b, owner_b, a, owner_a)}
        for (way, sides), names in zip(ways.items(), (names_a, names_b), strict=True):
            yield from recalls(way, *sides, k=self.k, names=names)
        for name, edges in self.bins.items():
            values = torch.tensor(
                [float(at_path(meta, name, "a sample without the number of a bin")) for meta in metas]
            )
            for way, (q, own, c, of) in ways.items():
                for span, rows in parted(values[own], edges):
                    found = recalls(way, q[rows], own[rows], c, of, k=self.k)
                    yield from ((f"{figure}_{name}_{span}", score) for figure, score in found if "/R@" in figure)

    def _embed(
        self, encoders: Mapping[str, Encoder]
    ) -> tuple[list[tuple[Tensor, Tensor, list[str]]], list[Mapping[str, Any] | None]]:
        """Returns the items of both modalities (N, D), of each the sample that it belongs to (N,), and its name; and
        each sample's meta.
        """
        media = [name for name in self.modalities if name != "text"]
        embedded, metadata = embed_stream(
            encoders,
            self.source,
            media,
            space=self.space,
            keep=[*["text"][: 2 - len(media)], *["meta"][: len(self.bins)]],
        )
        keys = [row["__key__"] for row in metadata]
        sides = []
        for name in self.modalities:
            if name == "text":
                texts = [row["text"] if isinstance(row["text"], list) else [row["text"]] for row in metadata]
                items = encoders["text"].encode([t for several in texts for t in several], space=self.space)
                owners = torch.tensor([i for i, several in enumerate(texts) for _ in several])
                sides.append((items, owners, [n for pair in zip(keys, texts, strict=True) for n in _names(*pair)]))
            else:
                sides.append((embedded[name], torch.arange(len(keys)), keys))
        return sides, [row.get("meta") for row in metadata]


def _names(key: str, texts: Sequence[str]) -> list[str]:
    return [key] if len(texts) == 1 else [f"{key}/{number}" for number in range(len(texts))]


def recalls(
    name: str,
    q: Tensor,
    q_owner: Tensor,
    c: Tensor,
    c_owner: Tensor,
    *,
    k: tuple[int, ...],
    names: Sequence[str] | None = None,
) -> Iterator[tuple[str, Score]]:
    """Yields <name>/R@k and <name>/median_rank of queries among candidates, right where both have one owner.

    names: of the queries, by which the median rank keeps each one's rank.
    """
    ranks = best_ranks(q, q_owner, c, c_owner)
    counts = torch.bincount(c_owner, minlength=int(q_owner.max()) + 1)[q_owner].double()
    for cut in k:
        chance = (1 - _none_right(len(c), counts, cut)).mean()
        yield f"{name}/R@{cut}", bootstrap(ranks < cut, chance=float(chance))
    middle = (len(c) + 1) / (float(counts.mean()) + 1)
    parts = None if names is None else named(names, (ranks + 1).tolist())
    median = bootstrap(ranks + 1, chance=middle, statistic=lambda x: x.quantile(0.5, dim=-1), parts=parts)
    yield f"{name}/median_rank", median


def _none_right(candidates: int, right: Tensor, k: int) -> Tensor:
    """Returns the chance that k random candidates hold none of the right ones (N,): hypergeometric."""
    none = torch.ones_like(right)
    for drawn in range(min(k, candidates)):
        none = none * ((candidates - right - drawn).clamp(min=0) / (candidates - drawn))
    return none


def best_ranks(queries: Tensor, query_owner: Tensor, candidates: Tensor, candidate_owner: Tensor) -> Tensor:
    """Returns for each query how many wrong candidates score at least as high as its best right one (N,)."""
    ranks = []
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ candidates.T
        right = query_owner[start : start + CHUNK, None] == candidate_owner[None]
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((scores >= best) & ~right).sum(dim=1))
    return torch.cat(ranks)


evaluation = Retrieval
