"""Whether image and sound belong together: easy, hard and super-hard pairs, and retrieval in all four directions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.plan import seed_of
from mmssl.data.subset import limited
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts import low_level
from mmssl.evals.parts.classes import class_of
from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.pretext import Answers, gathered, per_group
from mmssl.evals.parts.report import require
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import prepared_groups
from mmssl.evals.parts.untrained import WARM, WithUntrained
from mmssl.evals.parts.windows import Kind, Question, WindowSampler
from mmssl.evals.retrieval import recalls
from mmssl.types import Features, Sample, Score, Trained

KINDS: tuple[Kind, ...] = ("easy", "hard", "super_hard")
CUT = 30  # of nDCG


class AudioVisual(WithUntrained):
    """Is the true sound preferred to a false one? That of the next clip (easy), of the same clip some time away (hard),
    or overlapping and out of sync (super-hard: Korbar et al., NeurIPS 2018). And nDCG@30 and recall among clips.

    Kinds for which no clip has room are left out.

    data: shards with videos and their sound, or images and sounds (then only easy pairs).
    task: the task that judges, by its `log_odds` or, without, by the cosine in its space.
    windows: questions of each kind per clip.
    hard_gap: the least seconds from the true to the false sound of a hard pair.
    super_hard_gap: the same of a super-hard one, which lies nearer than `hard_gap`.
    label: the sample's key that makes two clips relevant to each other; without it no nDCG.
    k: the cut-offs of recall, by instance.
    baselines: also judge the encoders and the task's heads with random weights.
    limit: samples at most, drawn from a fixed seed.
    seed: of where the windows lie.
    batch: clips at a time.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        task: str = "avc",
        windows: int = 4,
        hard_gap: float = 0.5,
        super_hard_gap: float = 0.12,
        label: str | None = None,
        k: tuple[int, ...] = (1, 5, 10),
        baselines: bool = False,
        limit: int | None = None,
        seed: int = 0,
        batch: int = 16,
    ) -> None:
        self.source = limited(open_source(data), limit)
        if windows < 1 or batch < 2:
            raise UserError(f"windows is {windows} and batch {batch}; expected at least 1 and, for easy pairs, 2")
        self.task, self.windows, self.hard_gap, self.super_hard_gap = task, windows, hard_gap, super_hard_gap
        self.labelled = () if label is None else (label,)
        self.baselines = baselines
        self.k, self.seed, self.batch = k, seed, batch

    def needs(self, trained: Trained) -> Needs:
        return Needs(data={"data": (self.source, (*Comparer(trained, self.task).reads, *self.labelled))})

    def warm(self, fresh: Trained) -> None:
        judge = Comparer(fresh, self.task)
        for asked, _ in itertools.islice(self._questions_of(judge), WARM):
            easy = [question for found in asked.values() for question in found.get("easy", ())]
            if easy:
                compare(judge, easy)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields <kind>, where the task says yes or no also <kind>/yes_no, and <a>-<b>/nDCG@30, R@k, median_rank."""
        judge = Comparer(trained, self.task)
        pairs, clips, labels = self._answers(judge)
        for number, kind in enumerate(KINDS):
            answers = {name: values[pairs["kind"] == number] for name, values in pairs.items()}
            if len(answers["kind"]):
                yield from scores(kind, answers, yes_no=judge.yes_no)
        yield from self._retrieval(judge, clips, labels)

    def _answers(self, judge: Comparer) -> tuple[Answers, Answers, list[str]]:
        """Returns the answers to all pairs, the embeddings of each clip, and its label, over all processes."""
        pairs, clips, labels = list[Answers](), list[Answers](), dict[int, str]()
        for asked, labelled in self._questions_of(judge):
            labels |= labelled
            for number, kind in enumerate(KINDS):
                for window in range(self.windows):
                    some = {clip: found[kind][window] for clip, found in asked.items() if kind in found}
                    if not some:
                        continue
                    sample = torch.tensor(list(some))
                    answers, embedded = compare(judge, list(some.values()))
                    if answers:
                        pairs.append({"sample": sample, "kind": torch.full_like(sample, number), **answers})
                    if kind == "easy" and window == 0:
                        clips.append({"sample": sample, **embedded})
        everyone = {clip: label for part in dist.gather_objects(labels) for clip, label in part.items()}
        found = gathered(clips)
        return gathered(pairs), found, [everyone[int(clip)] for clip in found["sample"]]

    def _questions_of(self, judge: Comparer) -> Iterator[tuple[dict[int, dict[Kind, list[Question]]], dict[int, str]]]:
        """Yields this process's share of the chunks: of each clip in one its questions, and its label."""
        gaps = {"hard_gap": self.hard_gap, "super_hard_gap": self.super_hard_gap}
        sampler = WindowSampler(judge.preprocess, judge.visual, **gaps)
        ask = partial(
            _questions, sampler=sampler, reads=judge.reads, label=self.labelled, windows=self.windows, seed=self.seed
        )
        for _, several in prepared_groups(self.source, (*judge.reads, *self.labelled), ask, size=self.batch):
            found = {one.place: one.value for one in several if one.value is not None}
            yield (
                {clip: asked for clip, (asked, _) in found.items()},
                {clip: name for clip, (_, name) in found.items()},
            )

    def _retrieval(self, judge: Comparer, clips: Answers, labels: list[str]) -> Iterator[tuple[str, Score]]:
        sides = {judge.visual: clips["seen"], "audio": clips["heard"]}
        classes = {label: number for number, label in enumerate(sorted(set(labels)))}
        label = torch.tensor([classes[name] for name in labels])
        own = torch.arange(len(labels))
        for (a, queries), (b, candidates) in itertools.product(sides.items(), sides.items()):
            if a != b and not judge.joint:
                continue
            if self.labelled:
                value, chance = ndcg(queries @ candidates.T, label[:, None] == label, cut=CUT)
                yield f"{a}-{b}/nDCG@{CUT}", bootstrap(value, chance=chance)
            if a != b:
                yield from recalls(f"{a}-{b}", queries, own, candidates, own, k=self.k)


def _questions(
    sample: Sample, *, sampler: WindowSampler, reads: Sequence[str], label: Sequence[str], windows: int, seed: int
) -> tuple[dict[Kind, list[Question]], str]:
    """Returns the questions about a clip, and its label."""
    require(sample, *reads, *label)
    name = str([class_of(sample[key]) for key in label])
    found = sampler.sample(sample, KINDS, windows, random.Random(seed_of(seed, sample["__place__"])))
    if not found:
        raise DamagedError("a clip shorter than a window")
    return found, name


def scores(kind: Kind, answers: Answers, *, yes_no: bool) -> Iterator[tuple[str, Score]]:
    """Yields the accuracies on one kind of pairs, (N,) questions in all; each clip counts once."""
    clip, true, false = answers["sample"], answers["true"], answers["false"]
    look = _standard(answers["look"])
    sound, false_sound = _standard(torch.cat([answers["sound"], answers["false_sound"]])).chunk(2)
    features = (
        low_level.pair_features(look, sound, answers["together"]),
        low_level.pair_features(look, false_sound, answers["false_together"]),
    )
    right = (true > false).float() + (true == false) / 2
    trivial = float(per_group(low_level.prefers(*features, clip), clip).mean())
    yield kind, bootstrap(per_group(right, clip), chance=0.5, trivial=trivial)
    if yes_no:
        said = ((true > 0).float() + (false <= 0).float()) / 2
        trivial = float(per_group(low_level.tells(*features, clip), clip).mean())
        yield f"{kind}/yes_no", bootstrap(per_group(said, clip), chance=0.5, trivial=trivial)


def ndcg(scores: Tensor, relevant: Tensor, *, cut: int) -> tuple[Tensor, float]:
    """Returns the normalised discounted cumulative gain at a cut-off of each query that has anything to find, (M,),
    and what a random order is expected to reach.

    scores, relevant (N, N): of queries against candidates; a clip never answers for itself. Ties count against.
    """
    others = len(scores) - 1
    not_own = ~torch.eye(len(scores), dtype=torch.bool)
    scores, gains = (x[not_own].view(-1, others) for x in (scores, relevant))
    some = gains.any(dim=1)
    scores, gains = scores[some], gains[some].double()
    worst_first = gains.argsort(dim=1, stable=True)
    best_first = scores.gather(1, worst_first).argsort(dim=1, descending=True, stable=True)
    gains = gains.gather(1, worst_first).gather(1, best_first)
    discount = 1 / torch.arange(2, others + 2, dtype=torch.double).log2()
    discount[cut:] = 0
    ideal = gains.sort(dim=1, descending=True).values @ discount
    return gains @ discount / ideal, float((gains.mean(dim=1) * discount.sum() / ideal).mean())


def compare(judge: Comparer, questions: Sequence[Question]) -> tuple[Answers, Answers]:
    """Returns for each of B questions how well the true and the false sound match, and what is trivial about all
    three, nothing where there is no false sound to be had; and the embeddings (B, D) `seen` and `heard`.
    """
    shown = torch.stack([question.visual for question in questions])
    sounds = torch.stack([question.positive for question in questions])
    seen, heard = judge.features(judge.visual, shown), judge.features("audio", sounds)
    embedded = {
        "seen": judge.embedding(judge.visual, seen).cpu(),
        "heard": judge.embedding("audio", heard).cpu(),
    }
    others = torch.arange(len(questions)).roll(1)
    if questions[0].negative is not None:
        false_sounds = torch.stack([q.negative for q in questions if q.negative is not None])
        false = judge.features("audio", false_sounds)
    elif len(questions) > 1:
        false_sounds, false = sounds[others], _rows(heard, others)
    else:
        return {}, embedded
    answers = {
        "true": judge.match(seen, heard),
        "false": judge.match(seen, false),
        "look": low_level.look(shown),
        "sound": low_level.loudness(sounds),
        "false_sound": low_level.loudness(false_sounds),
        "together": low_level.together(shown, sounds),
        "false_together": low_level.together(shown, false_sounds),
    }
    return answers, embedded


def _rows(features: Features, index: Tensor) -> Features:
    tokens = None if features.tokens is None else features.tokens[index]
    return Features(features.pooled[index], tokens, features.grid)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-6)


evaluation = AudioVisual
