"""ICMLM against its formulas: one tag hidden, predicted from the rest and the image; the tags of the whole image."""

from __future__ import annotations

import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.icmlm import ICMLM, method
from mmssl.nn.word_in_image import AttFC
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.text import is_telling
from mmssl.types import Batch, Epoch, Ragged
from mmssl.views.captioned import Captioned

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same

TEXTS = ["x yy", "q a", "x q2", "...", "x"]
HAVE = {"image_present": present(1, 1, 1, 1, 0), "text_present": present(1, 1, 1, 1, 1)}


def made(head: str, **options: Any) -> tuple[ICMLM, dict[str, Any]]:
    torch.manual_seed(0)
    text = create_encoder("transformer", width=8, depth=1, heads=2, context_length=8, vocab_size=260)
    encoders: dict[str, Any] = {"image": Table("image", 5, grid=(2, 2)), "text": text}
    task = ICMLM(encoders, head=head, width=4, heads=2, **{"tags": 3, "learn_from": 5, **options})  # type: ignore[arg-type]
    for parameter in (*task.parameters(), *text.parameters()):
        nn.init.normal_(parameter, std=0.4)
    return task, encoders


def shown(encoders: dict[str, Any]) -> Batch:
    words = encoders["text"].preprocess.collate(TEXTS)
    extra = {**HAVE, "seed": torch.arange(5) + 3}
    return Batch({"image": [numbers(0, 1, 2, 3, 4)], "text": [words]}, extra=extra)


def letters(encoders: dict[str, Any], names: str) -> list[int]:
    return [encoders["text"].preprocess.tokenizer.token_to_id(name) for name in names]


def learn(task: ICMLM, encoders: dict[str, Any], number: int = 0) -> None:
    task.before_epoch(encoders, Epoch(number, lambda: repeat(shown(encoders)), lambda: iter(())))


def test_tags_are_the_most_frequent_telling_tokens() -> None:
    """x thrice, q and y twice of all; a is a function word, 2 and the point no letters; of two captions x y alone."""
    task, encoders = made("tfm")
    assert task.tag_of.tolist() == [-1] * 260
    learn(task, encoders, number=1)
    assert task.tag_of.tolist() == [-1] * 260, "only before the first pass"
    learn(task, encoders)
    assert [task.tag_of[n].item() for n in letters(encoders, "xqya2.")] == [0, 1, 2, -1, -1, -1]
    assert (task.tag_of >= 0).sum() == 3
    few, encoders = made("tfm", learn_from=1, tags=7)
    learn(few, encoders)
    assert [few.tag_of[n].item() for n in letters(encoders, "yxq")] == [0, 1, -1]
    one, encoders = made("tfm", tags=1)
    learn(one, encoders)
    assert (one.tag_of >= 0).nonzero().flatten().tolist() == letters(encoders, "x")


def predicted(task: ICMLM, cells: Tensor, words: Tensor, place: int) -> Tensor:
    """The head on one caption without padding, written out for att_fc."""
    head = task.head
    if not isinstance(head, AttFC):
        x = torch.cat([head.words(words), head.cells(cells)])  # type: ignore[operator]
        return head.out(head.blocks(x[None])[0, place])  # type: ignore[operator]
    query = torch.layer_norm(head.query[0](words[place]), (4,), head.query[1].weight, head.query[1].bias)
    keys = [torch.layer_norm(head.key[0](cell), (4,), head.key[1].weight, head.key[1].bias) for cell in cells]
    shares = torch.stack([query @ key / 2 for key in keys]).softmax(0)
    looked = sum(share * cell for share, cell in zip(shares, cells, strict=True))
    return head.out[2](head.out[0](looked).relu())


@pytest.mark.parametrize("head", ["att_fc", "tfm"])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_hidden_word_and_the_tags(head: str, weight: float) -> None:
    task, encoders = made(head, tag_weight=weight)
    learn(task, encoders)
    batch = shown(encoders)
    found = task(encoders, batch)
    words, text = batch.views["text"][0], encoders["text"]
    x, q, y = letters(encoders, "xqy")
    losses, tags, right, answers = [], [], [], []
    for row in range(4):
        ids = words.values[row, : words.lengths[row]].tolist()
        able = [place for place, token in enumerate(ids) if token in (x, q, y)]
        if row == 3:
            assert not able
        else:
            chance = draws(batch.extra["seed"], words.values.shape[1])[row]
            place = able[int(chance[able].argmax())]
            hidden = torch.tensor([[0 if n == place else token for n, token in enumerate(ids)]])
            tokens = text(Ragged(hidden, torch.tensor([len(ids)]), padded=True)).tokens[0]
            scores = text.embedding.weight @ predicted(task, encoders["image"].tokens[row], tokens, place) + task.bias
            losses.append(-scores.log_softmax(0)[ids[place]])
            answers.append(ids[place])
            right.append(float(scores.argmax() == ids[place]))
        if weight:
            assert task.tagger is not None
            p = task.tagger(encoders["image"].pooled[row]).sigmoid()
            tags.append(
                -torch.stack([p[k].log() if t in ids else (1 - p[k]).log() for k, t in enumerate((x, q, y))]).mean()
            )
    expected = torch.stack(losses).mean() + (weight * torch.stack(tags).mean() if weight else 0)
    same(found.total, expected, [task, *encoders.values()])
    assert found.answers["correct"][:3].tolist() == right and found.answers["correct"][3:].isnan().all()
    assert ("loss_tags" in found.logs) == bool(weight) and (task.tagger is None) == (not weight)
    assert found.logs["commonest"].item() == pytest.approx(max(map(answers.count, answers)) / 3)
    torch.testing.assert_close(found.logs["loss_word"], torch.stack(losses).mean().detach())


def test_every_place_of_a_tag_is_hidden_in_turn() -> None:
    task, encoders = made("att_fc")
    learn(task, encoders)
    words = encoders["text"].preprocess.collate(["xay" for _ in range(400)])
    place, hidden = task._hide(words, torch.arange(400) * 977)
    assert hidden.all() and place.bincount(minlength=3).tolist() == pytest.approx([200, 0, 200], abs=40)


def test_tags_without_a_token_are_no_part_of_the_mean() -> None:
    few, encoders = made("att_fc", tags=3)
    learn(few, encoders)
    many, others = made("att_fc", tags=9)
    learn(many, others)
    assert few.tagger is not None and many.tagger is not None
    logits = torch.randn(5, 9)
    words = shown(encoders).views["text"][0]
    torch.testing.assert_close(few._tag_loss(logits[:, :3], words), many._tag_loss(logits, words))


def test_defaults_and_what_is_refused() -> None:
    assert method.objective is ICMLM and method.view.kind is Captioned  # type: ignore[attr-defined]
    assert defaults(ICMLM) == {
        "head": "tfm", "width": 512, "depth": 1, "heads": 8, "tags": 1000, "tag_weight": 1.0, "learn_from": 100_000,
    }  # fmt: skip
    task, encoders = made("tfm")
    words = encoders["text"].preprocess.collate(["1 2", "a."])
    empty = Batch({"text": [words]})
    with pytest.raises(UserError, match="none of the captions has a word to hide"):
        task.before_epoch(encoders, Epoch(0, lambda: repeat(empty), lambda: iter(())))
    with pytest.raises(UserError, match="width 5 must be a multiple of heads 2"):
        ICMLM(encoders, width=5, heads=2)
    with pytest.raises(UserError, match="tags 0"):
        ICMLM(encoders, tags=0)


def test_what_is_telling() -> None:
    told = [word for word in (" dog", "##ing", "Red", "the", " A", "2", "...", "x1", "", "Ünder") if is_telling(word)]
    assert told == [" dog", "##ing", "Red", "Ünder"]
