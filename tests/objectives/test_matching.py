"""The core for pairs judged one by one: who is the wrong sound, what counts, and how it is answered."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.binary import binary_correspondence
from mmssl.objectives.matching import Matching, next_present
from mmssl.types import Batch, Encoder, Features, Head


class Table(Encoder):
    """An encoder that looks vectors up in a trainable table, by the number that each sample is."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.dim = modality, 3
        self.rows = nn.Parameter(torch.randn(20, 3))
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Features:
        self.asked = x[:, 0].long().tolist()
        return Features(self.rows[x[:, 0].long()])


class Dot(Matching):
    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        return (visual.pooled * audio.pooled).sum(1)

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        return binary_correspondence(odds, matches)


def tables() -> dict[str, Any]:
    return {"image": Table("image"), "audio": Table("audio")}


def numbered(*starts: int, rows: int = 6, present: list[bool] | None = None, kind: list[int] | None = None) -> Batch:
    """Samples 0, 1, ... whose sounds are numbered from each of the starts."""
    views = [(torch.arange(rows) + start)[:, None].float() for start in starts]
    extra: dict[str, Tensor] = {} if kind is None else {"kind": torch.tensor(kind)}
    if present is not None:
        extra["audio_present"] = torch.tensor(present)
    return Batch({"image": [torch.arange(rows)[:, None].float()], "audio": views}, extra=extra)


def expected(encoders: dict[str, Any], pairs: list[tuple[int, int, int]]) -> Tensor:
    """The loss of pairs (image, own sound, wrong sound), written out."""
    image, audio = encoders["image"].rows, encoders["audio"].rows
    yes = [-torch.log(torch.sigmoid(image[i] @ audio[own])) for i, own, _ in pairs]
    no = [-torch.log(1 - torch.sigmoid(image[i] @ audio[wrong])) for i, _, wrong in pairs]
    return (sum(yes) / len(yes) + sum(no) / len(no)) / 2  # type: ignore[return-value]


CASES = [
    (numbered(0), [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 4), (4, 4, 5), (5, 5, 0)]),
    (numbered(0, present=[True, False, True, False, False, True]), [(0, 0, 2), (2, 2, 5), (5, 5, 0)]),
    # 0: the next one's second sound is its own; 1, 2: their own second sound; -1: a further sound of the next one
    (
        numbered(0, 10, kind=[0, 0, 1, 2, -1, 0]),
        [(0, 0, 1), (1, 1, 12), (2, 2, 12), (3, 3, 13), (4, 4, 5), (5, 5, 0)],
    ),
    (numbered(0, 10, kind=[-1] * 6), [(i, i, 10 + (i + 1) % 6) for i in range(6)]),
    (numbered(0, 10, kind=[0, 1, 0, 0, 0, 0], present=[False, True] + [False] * 4), [(1, 1, 11)]),
]


@pytest.mark.parametrize("batch, pairs", CASES)
def test_equals_the_written_out_pairs_in_value_and_gradient(batch: Batch, pairs: list[tuple[int, int, int]]) -> None:
    encoders = tables()
    loss = Dot(encoders, visual="image")(encoders, batch)
    torch.testing.assert_close(loss.total, expected(encoders, pairs))
    weights = [encoders[key].rows for key in ("image", "audio")]
    ours = torch.autograd.grad(loss.total, weights)
    theirs = torch.autograd.grad(expected(encoders, pairs), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("visual", ["image", "video"])
def test_one_question_alone_is_the_accuracy(visual: Literal["image", "video"]) -> None:
    encoders: dict[str, Any] = {visual: Table(visual), "audio": Table("audio")}
    with torch.no_grad():
        encoders[visual].rows[:] = 1.0
        encoders["audio"].rows[:] = 1.0
    batch = numbered(0, 10, kind=[0, 2, 0, 0, 0, 0], present=[False, True] + [False] * 4)
    batch.views[visual] = batch.views.pop("image")
    loss = Dot(encoders, visual=visual)(encoders, batch)
    assert loss.logs["accuracy"] == 0.5, "yes to both"
    assert loss.answers["correct"].nansum() == 0.5 and loss.answers["kind"].nansum() == 2
    assert loss.answers["correct"].isnan().tolist() == loss.answers["kind"].isnan().tolist()
    assert loss.answers["correct"].isnan().sum() == 5


def test_even_odds_are_no() -> None:
    own, wrong = torch.tensor([0.0, 0.1, -0.1, 0.2]), torch.tensor([0.0, 0.0, 0.1, -0.2])
    torch.testing.assert_close(Dot(tables(), visual="image").correct(own, wrong), torch.tensor([0.5, 1.0, 0.0, 1.0]))


class Length(Head):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, features: Features) -> Tensor:
        return features.pooled * self.factor


def test_spaces_embed_what_is_seen_and_the_own_sound_for_the_monitors() -> None:
    encoders = tables()
    made = Dot(encoders, visual="image")
    heads = {"image": Length(2.0), "audio": Length(3.0)}
    made.spaces = lambda: heads  # type: ignore[method-assign, assignment, return-value]
    batch = numbered(4, 10, kind=[1] * 6)
    batch.views["image"].append(torch.full((6, 1), 9.0))  # a further view, which is not looked at
    loss = made(encoders, batch)
    assert list(loss.embeddings) == ["image", "audio"] and list(loss.logs) == ["accuracy"]
    torch.testing.assert_close(loss.embeddings["image"], 2 * encoders["image"].rows[:6].detach())
    torch.testing.assert_close(loss.embeddings["audio"], 3 * encoders["audio"].rows[4:10].detach())
    assert not any(x.requires_grad for x in (*loss.embeddings.values(), *loss.answers.values(), *loss.logs.values()))
    assert made.uses == ("image", "audio")


def test_sounds_are_compared_in_float32() -> None:
    encoders, kinds = tables(), []
    encoders["audio"].rows.data = encoders["audio"].rows.data.bfloat16()
    made = Dot(encoders, visual="image")
    log_odds = made.log_odds
    made.log_odds = lambda seen, heard: kinds.append(heard.pooled.dtype) or log_odds(seen, heard)  # type: ignore
    assert made(encoders, numbered(0, 10, kind=[1] * 6)).total.dtype == torch.float32
    assert kinds == [torch.float32] * 2


def test_the_wrong_sound_may_be_another_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of two processes sees it: after its last sample comes the first one of the first process."""
    monkeypatch.setattr(dist, "rank", lambda: 1)
    monkeypatch.setattr(dist, "gather", lambda x: torch.cat([x.flip(0), x]))
    monkeypatch.setattr(dist, "gather_with_grad", lambda x: torch.cat([x.flip(0), x]))
    following, other = next_present(torch.tensor([True, False, True, False]))
    assert following[[0, 2]].tolist() == [6, 1] and other[[0, 2]].all()
    encoders = tables()
    loss = Dot(encoders, visual="image")(encoders, numbered(0, rows=4, present=[True, False, True, False]))
    torch.testing.assert_close(loss.total, expected(encoders, [(0, 0, 2), (2, 2, 2)]))


def test_what_cannot_be_matched_is_a_methods_to_say() -> None:
    bare = Matching(tables(), visual="image")
    with pytest.raises(NotImplementedError):
        bare.log_odds(Features(torch.zeros(1, 3)), Features(torch.zeros(1, 3)))
    with pytest.raises(NotImplementedError):
        bare.cost(torch.zeros(1), torch.zeros(1))


def test_only_second_sounds_that_differ_are_heard() -> None:
    encoders = tables()
    Dot(encoders, visual="image")(encoders, numbered(0, 10, kind=[0, 0, 1, 0, 0, -1]))
    assert encoders["audio"].asked == [0, 1, 2, 3, 4, 5, 12, 15]


def test_answers_say_how_much_was_right_and_of_which_kind() -> None:
    encoders = tables()
    with torch.no_grad():
        encoders["image"].rows[:] = 1.0
        encoders["audio"].rows[:] = torch.tensor([1.0, -1.0, 1.0, -1.0] * 5)[:, None]
    present = [True, True, True, True, True, False]
    loss = Dot(encoders, visual="image")(encoders, numbered(0, 10, kind=[0, 0, 1, 0, 0, 0], present=present))
    # wrong sounds: 1 (no), 12 (yes), 12 (yes), 4 (yes), 0 (yes); own: yes, no, yes, no, yes
    assert loss.answers["correct"][:5].tolist() == [1.0, 0.0, 0.5, 0.0, 0.5]
    assert loss.answers["kind"][:5].tolist() == [0, 0, 1, 0, 0]
    assert loss.answers["correct"][5].isnan() and loss.answers["kind"][5].isnan()
    assert loss.logs["accuracy"].item() == pytest.approx(0.4)


def test_one_sample_alone_is_never_its_own_wrong_sound() -> None:
    encoders = tables()
    loss = Dot(encoders, visual="image")(encoders, numbered(0, present=[False, True, False, False, False, False]))
    torch.testing.assert_close(
        loss.total, -torch.log(torch.sigmoid(encoders["image"].rows[1] @ encoders["audio"].rows[1])) / 2
    )
    assert loss.answers["correct"].isnan().all() and loss.logs["accuracy"] == 0


def test_the_next_present_sample_goes_around_the_end() -> None:
    following, other = next_present(torch.tensor([False, True, False, True, True, False]))
    assert following[[1, 3, 4]].tolist() == [3, 4, 1] and other[[1, 3, 4]].all()


def test_the_encoders_must_be_there() -> None:
    with pytest.raises(UserError, match="needs an encoder for 'video'"):
        Dot(tables(), visual="video")
