"""Asking how well image and sound match: by the task's own answer, or by cosine in its space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.compare import Comparer
from mmssl.types import Encoder, Features, Head, Preprocess, Pretext, Trained, View


class Plain(Encoder):
    """Features are what is shown, with three cells beside each other."""

    dim = 2

    def __init__(self, modality: str, *spaces: str) -> None:
        super().__init__()
        self.modality, self.preprocess = modality, Preprocess()
        self.weight = nn.Parameter(torch.ones(1))
        for name in spaces:
            self.spaces[name] = Turned()

    def forward(self, x: Tensor) -> Features:
        return Features(self.weight * x.flatten(1)[:, :2], x[:, None, :2] * torch.tensor([[[1.0], [2], [-1]]]), (1, 3))


class Turned(Head):
    def forward(self, features: Features) -> Tensor:
        return 2 * features.pooled.flip(1)


def trained(objective: Any = None, *spaces: str, visual: str = "image") -> Trained:
    encoders = {visual: Plain(visual, *spaces), "audio": Plain("audio", *spaces)}
    return Trained(encoders, {} if objective is None else {"task": Pretext(objective, View, {})})


SEEN, HEARD = torch.tensor([[3.0, 4], [1, 0]]), torch.tensor([[1.0, 0], [1, 1]])


def test_a_space_compares_by_cosine() -> None:
    judge = Comparer(trained(None, "clip"), "clip")
    assert (judge.visual, judge.reads, judge.yes_no, judge.joint) == ("image", ("image", "audio"), False, True)
    assert set(judge.heads) == set(judge.preprocess) == {"image", "audio"}
    one, two = judge.features("image", SEEN), judge.features("audio", HEARD)
    assert not one.pooled.requires_grad
    torch.testing.assert_close(judge.embedding("image", one), torch.tensor([[0.8, 0.6], [0, 1]]))
    torch.testing.assert_close(judge.match(one, two), F.cosine_similarity(SEEN, HEARD))
    cells = SEEN[:, None] * torch.tensor([[[1.0], [2], [-1]]])
    expected = (2 * cells.flip(2) * (2 * HEARD.flip(1))[:, None]).sum(2)[:, None]
    torch.testing.assert_close(judge.maps(SEEN, HEARD, [0, 0]), expected)


def test_without_a_space_features_are_compared_as_they_are() -> None:
    judge = Comparer(trained(SimpleNamespace(visual="image")), "task")
    assert (judge.yes_no, judge.joint, judge.heads) == (False, False, {})
    one, two = judge.features("image", SEEN), judge.features("audio", HEARD)
    torch.testing.assert_close(judge.embedding("image", one), torch.tensor([[0.6, 0.8], [1, 0]]))
    torch.testing.assert_close(judge.match(one, two), F.cosine_similarity(SEEN, HEARD))
    with pytest.raises(UserError, match="neither a similarity_map nor a joint space"):
        judge.maps(SEEN, HEARD, [0, 0])
    half = trained(SimpleNamespace(visual="image"))
    half.encoders["audio"].spaces["task"] = Turned()
    assert not Comparer(half, "task").joint


def test_a_tasks_own_answer_comes_first() -> None:
    class Own:
        visual = "video"

        def log_odds(self, seen: Features, heard: Features) -> Tensor:
            return (seen.pooled - 10 * heard.pooled).sum(1).double()

        def similarity_map(self, seen: Features, heard: Features) -> Tensor:
            return (torch.arange(6.0).view(1, 6, 1, 1) + 100 * heard.pooled.sum(1).view(-1, 1, 1, 1)).double()

    judge = Comparer(trained(Own(), "task", visual="video"), "task")
    assert (judge.visual, judge.reads, judge.yes_no, judge.joint) == ("video", ("video", "audio"), True, True)
    one, two = judge.features("video", SEEN), judge.features("audio", HEARD)
    found = judge.match(one, two)
    assert found.tolist() == [7 - 10, 1 - 20] and found.dtype == torch.float32
    film = torch.zeros(2, 2, 12, 1)
    film[:, :, 0, 0] = SEEN
    judge.encoders["video"].forward = lambda x: one  # type: ignore[method-assign]
    maps = judge.maps(film, HEARD, [3, 11])
    assert maps.tolist() == [[[101.0]], [[205.0]]] and maps.dtype == torch.float32  # six moments of twelve frames


def test_the_task_of_a_space_looks_at_films_before_pictures() -> None:
    both = trained(None, "clip")
    both.encoders["video"] = Plain("video", "clip")  # type: ignore[index]
    assert Comparer(both, "clip").visual == "video"
    both.encoders["video"].spaces.clear()
    assert Comparer(both, "clip").visual == "image"
    both.encoders["audio"].spaces.clear()
    with pytest.raises(UserError, match="'clip' compares no image or video with sound"):
        Comparer(both, "clip")
    assert Comparer(trained(SimpleNamespace(), "task"), "task").visual == "image"
    with pytest.raises(UserError, match="no encoder 'video'"):
        Comparer(trained(SimpleNamespace(visual="video")), "task")
