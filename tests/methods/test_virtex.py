"""VirTex against its paper: each word given those before it, from both ends, with absent samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.virtex import VirTex, method
from mmssl.types import Batch, Method, Ragged
from mmssl.views import captioned

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same

END, WIDTH = 1, 8
TEXTS = [[5, 6, 7, END], [9, END], [4, 8, END], [7, 7, 5, END]]


def made(**options: Any) -> tuple[VirTex, dict[str, Any]]:
    torch.manual_seed(0)
    text = create_encoder("transformer", width=WIDTH, depth=0, heads=1, context_length=6, vocab_size=260)
    encoders: dict[str, Any] = {"image": Table("image", 5, grid=(2, 3)), "text": text}
    task = VirTex(encoders, heads=2, dropout=0.0, mlp_ratio=2.0, **options)
    for parameter in (*task.parameters(), *text.parameters()):
        nn.init.normal_(parameter, std=0.4)
    return task, encoders


def shown() -> Batch:
    words = Ragged.pad([torch.tensor(ids) for ids in TEXTS])
    there = {"image_present": present(1, 1, 1, 0), "text_present": present(1, 0, 1, 1)}
    return Batch({"image": [numbers(0, 1, 2, 3)], "text": [words]}, extra=there)


def attend(layer: nn.MultiheadAttention, x: Tensor, y: Tensor) -> Tensor:
    """Two heads of one text: x (L, D) looks at y (N, D)."""
    q, k, v = (
        F.linear(z, w, b)
        for z, w, b in zip((x, y, y), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    )
    heads = [
        (q[:, half] @ k[:, half].T / 2).softmax(1) @ v[:, half] for half in (slice(0, 4), slice(4, 8))
    ]  # 4 numbers a head
    return layer.out_proj(torch.cat(heads, dim=1))


def word(task: VirTex, number: int, text: Any, read: list[int], cells: Tensor) -> Tensor:
    """Returns the scores of all tokens to follow those read, of which the last one alone can see all."""
    x = text.norm(text.embedding.weight[read] + text.positions[: len(read)])
    for layer in task.decoders[number].layers:
        rows = [attend(layer.self_attn, x[i : i + 1], x[: i + 1]) for i in range(len(x))]
        x = layer.norm1(x + torch.cat(rows))
        x = layer.norm2(x + attend(layer.multihead_attn, x, cells))
        x = layer.norm3(x + layer.linear2(F.gelu(layer.linear1(x))))
    return text.embedding.weight @ x[-1] + task.bias


def expected(task: VirTex, encoders: dict[str, Any], directions: int) -> list[Tensor]:
    losses = []
    for number in range(directions):
        terms = []
        for row in (0, 2):  # those that have both
            cells = task.project(encoders["image"].tokens[row])
            body = TEXTS[row][:-1][:: -1 if number else 1]
            written = [END, *body, END]
            for place in range(1, len(written)):
                scores = word(task, number, encoders["text"], written[:place], cells)
                terms.append(-scores.log_softmax(0)[written[place]])
        losses.append(torch.stack(terms).mean())
    return losses


@pytest.mark.parametrize("backward", [True, False])
def test_every_word_given_those_before_it(backward: bool) -> None:
    task, encoders = made(layers=2, backward=backward)
    found = task(encoders, shown())
    losses = expected(task, encoders, 1 + backward)
    same(found.total, torch.stack(losses).sum(), [task, *encoders.values()])
    names = ["loss_forward", "loss_backward"][: 1 + backward]
    assert list(found.logs) == [*names, "correct"]
    torch.testing.assert_close([found.logs[name] for name in names], [loss.detach() for loss in losses])
    assert found.answers["correct"].isnan().tolist() == [False, True, False, True]
    right = [
        sum(
            int(word(task, 0, encoders["text"], [END, *TEXTS[row]][: place + 1], cells).argmax()) == TEXTS[row][place]
            for place in range(len(TEXTS[row]))
        )
        / len(TEXTS[row])
        for row in (0, 2)
        for cells in [task.project(encoders["image"].tokens[row])]
    ]
    assert found.answers["correct"][[0, 2]].tolist() == pytest.approx(right)


def test_a_caption_is_the_likeliest_of_all_by_its_own_words() -> None:
    """With many beams for few words beam search is exact; what it says of its caption is what the task says of it."""
    task, encoders = made(layers=1)
    tokenizer = encoders["text"].preprocess.tokenizer
    vocab = tokenizer.get_vocab()
    with torch.no_grad():
        task.bias[:] = -50.0
        task.bias[[vocab["a"], vocab["b"], END]] = torch.tensor([1.0, 1.2, 0.0])
    found = task.captions(encoders, numbers(0, 1), beams=16, length=3)
    for row, caption in enumerate(found):
        cells = task.project(encoders["image"].tokens[row])
        every: dict[str, float] = {}
        for text in [
            "",
            *"ab",
            *(x + y for x in "ab" for y in "ab"),
            *(x + y + z for x in "ab" for y in "ab" for z in "ab"),
        ]:
            ids = [END, *(vocab[letter] for letter in text)]
            ids += [END] if len(text) < 3 else []  # three tokens at most
            every[text] = sum(
                word(task, 0, encoders["text"], ids[:place], cells).log_softmax(0)[ids[place]].item()
                for place in range(1, len(ids))
            )
        best = max(every, key=lambda text: every[text])
        assert caption.text == best
        assert caption.log_prob == pytest.approx(every[best], rel=1e-5)
    assert task.training, "and training goes on"


def test_defaults_are_the_papers() -> None:
    """Desai & Johnson, section 3: L = 1, heads of 64, F = 4 H, dropout 0.1, both directions."""
    assert method == Method(captioned.view, VirTex)
    assert defaults(VirTex) == {"layers": 1, "heads": None, "mlp_ratio": 4.0, "dropout": 0.1, "backward": True}
    text = create_encoder("transformer", width=128, depth=0, vocab_size=300)
    task = VirTex({"image": Table("image", 5, grid=(2, 2)), "text": text})
    layer = task.decoders[0].layers[0]
    assert layer.self_attn.num_heads == 2 and layer.linear1.out_features == 512 and len(task.decoders) == 2
    assert layer.dropout.p == layer.self_attn.dropout == task.dropout.p == 0.1
    assert layer.linear1.weight.std().item() == pytest.approx(0.02, rel=0.05) and task.bias.abs().sum() == 0


def test_what_cannot_be_predicted_is_refused() -> None:
    image = Table("image", 5, grid=(2, 2))
    context = create_encoder("transformer", width=8, depth=1, heads=1, vocab_size=300)
    with pytest.raises(UserError, match="to the others; give it depth: 0"):
        VirTex({"image": image, "text": context})
    with pytest.raises(UserError, match="knows none; choose transformer"):
        VirTex({"image": image, "text": Table("text", 5)})
    with pytest.raises(UserError, match="list an encoder text"):
        VirTex({"image": image})
    words = create_encoder("transformer", width=8, depth=0, heads=1, vocab_size=300)
    with pytest.raises(UserError, match="width 8 must be a multiple of the decoder's heads 3"):
        VirTex({"image": image, "text": words}, heads=3)
    flat = Table("image", 5)
    with pytest.raises(UserError, match="this encoder gives none"):
        VirTex({"image": flat, "text": words})({"image": flat, "text": words}, shown())
