"""A frozen text tower encodes a caption once, and gives the features that it gives otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.types import Ragged

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 300,
    "max_position_embeddings": 20,
}
TEXTS = [torch.tensor(ids) for ids in ([5, 6, 7], [8, 9], [5, 6, 7], [10, 11, 12, 13], [9, 8])]


def tower(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_encoder("transformers", architecture=BERT, **options)


def frozen(encoder: Any) -> Any:
    return encoder.requires_grad_(False).eval()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the texts that pass through a model."""
    from transformers import BertModel

    seen: list[int] = []
    plain = BertModel.forward

    def forward(self: Any, *, input_ids: torch.Tensor, **more: Any) -> Any:
        seen.append(len(input_ids))
        return plain(self, input_ids=input_ids, **more)

    monkeypatch.setattr(BertModel, "forward", forward)
    return seen


def test_a_text_is_encoded_once(counted: list[int]) -> None:
    plain, keeping = frozen(tower()), frozen(tower(remember=10))
    expected = plain(Ragged.pad(TEXTS)).pooled
    del counted[:]
    for rows in ([0, 1, 2, 3, 4], [4, 0], [3]):
        found = keeping(Ragged.pad([TEXTS[row] for row in rows]))
        torch.testing.assert_close(found.pooled, expected[rows], atol=1e-6, rtol=1e-5)
        assert found.tokens is None
    assert counted == [1, 1, 1, 1], "four texts differ, each is encoded alone"


def test_features_do_not_depend_on_the_batch() -> None:
    first, second = frozen(tower(remember=10)), frozen(tower(remember=10))
    first(Ragged.pad(TEXTS[2:]))
    assert first(Ragged.pad(TEXTS)).pooled.equal(second(Ragged.pad(TEXTS)).pooled), "bit by bit"


def test_what_trains_or_is_judged_is_encoded_anew(counted: list[int]) -> None:
    encoder = tower(remember=10).eval()
    trained = next(iter(encoder.parameters()))
    assert encoder(Ragged.pad(TEXTS)).tokens is not None, "its weights train"
    frozen(encoder)
    encoder(Ragged.pad(TEXTS))
    with torch.no_grad():
        before = encoder(Ragged.pad(TEXTS))
        assert before.tokens is not None, "no training goes on"
        trained += torch.randn_like(trained)
    after = encoder(Ragged.pad(TEXTS)).pooled
    assert not after.allclose(before.pooled, atol=1e-3), "weights have changed since"
    assert counted == [5, 1, 1, 1, 1, 5, 1, 1, 1, 1]


def test_the_first_are_forgotten_where_there_are_more(counted: list[int]) -> None:
    encoder = frozen(tower(remember=2))
    for rows in ([0, 1, 3], [1, 3], [0]):
        encoder(Ragged.pad([TEXTS[row] for row in rows]))
    assert counted == [1, 1, 1, 1]
    assert len(encoder.remembered.rows) == 2


def test_the_option_is_saved_and_is_of_texts(tmp_path: Path) -> None:
    save_encoder(tower(remember=7), tmp_path)
    assert load_encoder(tmp_path).config()["options"]["remember"] == 7  # type: ignore[index]
    assert "remember" not in tower().config()["options"]
    vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    with pytest.raises(UserError, match="remember keeps features of texts, and this reads image"):
        create_encoder("transformers", architecture=vit, remember=5)
