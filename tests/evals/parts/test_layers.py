"""What a layer puts out becomes one vector for each sample, whatever its shape; cases by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.evals.parts.layers import Tapped, averaged, has, require_place
from mmssl.types import Encoder, Features, Head, Preprocess, Ragged

TWO = Features(torch.zeros(2, 3))


def encoder_of(modality: str = "image", **more: Any) -> Any:
    return SimpleNamespace(modality=modality, **more)


def of(out: Any, features: Features = TWO, encoder: Any = None, x: Any = None) -> Tensor:
    return averaged(out, torch.zeros(2, 1) if x is None else x, features, encoder or encoder_of())


def test_features_are_their_pooled_ones_and_tuples_their_first() -> None:
    rows = torch.rand(2, 5)
    assert of(Features(rows)) is rows
    assert torch.equal(of((rows, None)), rows) and torch.equal(of([rows, 1]), rows)


@pytest.mark.parametrize(("out", "name"), [({"x": 1}, "dict"), (torch.zeros(2), "Tensor"), (None, "NoneType")])
def test_what_has_no_average_is_told(out: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"a layer gives {name}, which has no average"):
        of(out)


def test_maps_are_averaged_over_their_places() -> None:
    maps = torch.rand(2, 5, 3, 4)
    torch.testing.assert_close(of(maps), maps.mean((2, 3)))
    film = torch.rand(2, 5, 2, 3, 4)
    torch.testing.assert_close(of(film), film.mean((2, 3, 4)))
    last = encoder_of(model=SimpleNamespace(output_fmt="NHWC"))
    torch.testing.assert_close(of(maps, encoder=last), maps.mean((1, 2)))
    torch.testing.assert_close(of(film, encoder=last), film.mean((1, 2, 3)))
    torch.testing.assert_close(
        of(maps, encoder=encoder_of(model=SimpleNamespace(output_fmt="NCHW"))), maps.mean((2, 3))
    )
    torch.testing.assert_close(of(maps, encoder=encoder_of(model=object())), maps.mean((2, 3)))


@pytest.mark.parametrize(("front", "cut"), [(0, 0), (1, 1), (16, 16), (17, 0)])
def test_tokens_in_front_do_not_count(front: int, cut: int) -> None:
    tokens = torch.rand(2, front + 6, 5)
    features = Features(torch.zeros(2, 5), torch.zeros(2, 6, 5))
    torch.testing.assert_close(of(tokens, features), tokens[:, cut:].mean(1))
    torch.testing.assert_close(of(tokens), tokens.mean(1))  # an encoder without tokens
    packed = Features(torch.zeros(2, 5), torch.zeros(6, 5))
    torch.testing.assert_close(of(tokens, packed), tokens.mean(1))


def test_padding_does_not_count() -> None:
    tokens = torch.rand(2, 4, 5)
    lengths = torch.tensor([1, 3])
    features = Features(torch.zeros(2, 5), torch.zeros(2, 4, 5), lengths=lengths)
    torch.testing.assert_close(of(tokens, features), torch.stack([tokens[0, 0], tokens[1, :3].mean(0)]))
    other = torch.rand(2, 3, 5)  # of another length, which the lengths do not count
    torch.testing.assert_close(of(other, features), other.mean(1))
    words = Ragged(torch.zeros(2, 4), lengths, padded=True)
    torch.testing.assert_close(of(tokens, features, x=words), of(tokens, features))
    frames = torch.rand(4, 4, 5)  # of several rows a sample
    torch.testing.assert_close(of(frames, features), frames.mean(1).view(2, 2, 5).mean(1))


def test_points_are_averaged_over_their_cloud() -> None:
    x = Ragged(torch.rand(5, 3), torch.tensor([2, 3]))
    out = torch.rand(5, 3)
    expected = torch.stack([out[:2].mean(0), out[2:].mean(0)])
    torch.testing.assert_close(of(out, encoder=encoder_of("points"), x=x), expected)
    empty = Ragged(torch.rand(5, 3), torch.tensor([5, 0]))
    torch.testing.assert_close(of(out, x=empty), torch.stack([out.mean(0), torch.zeros(3)]))
    rows = torch.rand(2, 3)  # one for each cloud already
    torch.testing.assert_close(of(rows, encoder=encoder_of("points"), x=x), rows)
    torch.testing.assert_close(of(rows, encoder=encoder_of("text"), x=torch.zeros(2, 1)), rows)


def test_frames_of_a_film_are_averaged() -> None:
    out = torch.rand(6, 5)
    torch.testing.assert_close(of(out), torch.stack([out[:3].mean(0), out[3:].mean(0)]))
    with pytest.raises(UserError, match="a layer gives 5 rows for 2 samples"):
        of(torch.rand(5, 4))


class Double(Head):
    def forward(self, features: Features) -> Tensor:
        return 2 * features.pooled


class Blank(Preprocess):
    modality = "plain"

    def blank(self) -> Tensor:
        return torch.zeros(4)


class Small(Encoder):
    """Two layers, of which the second follows the first, and one that is never asked."""

    modality, dim, preprocess = "plain", 3, Blank()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(1, 1)
        self.spaces["task"] = Double()

    def forward(self, x: Tensor) -> Features:
        return Features(self.second(self.first(x)))


def test_an_encoder_is_read_at_several_places_side_by_side() -> None:
    encoder, x = Small().eval(), torch.rand(5, 4)
    tapped = Tapped(encoder, ["first", "pooled", "task"])
    assert (tapped.sizes, tapped.dim, tapped.places) == ([6, 3, 3], 12, ("first", "pooled", "task"))
    assert (tapped.modality, tapped.preprocess, tapped.device) == ("plain", encoder.preprocess, torch.device("cpu"))
    first = encoder.first(x)
    expected = torch.cat([first, encoder.second(first), 2 * encoder.second(first)], dim=1)
    torch.testing.assert_close(tapped.embed(x), expected)
    assert [part.shape for part in tapped.parts(x)] == [(5, 6), (5, 3), (5, 3)]
    assert not encoder.first._forward_hooks and not encoder.second._forward_hooks
    turned = Tapped(encoder, ["task", "first"])
    torch.testing.assert_close(turned.embed(x), torch.cat([2 * encoder.second(first), first], dim=1))
    with pytest.raises(UserError, match="the layer 'idle' takes no part in encoding"):
        Tapped(encoder, ["idle"])
    assert not encoder.idle._forward_hooks


def test_pooled_features_alone_need_no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Small()
    monkeypatch.setattr(Tapped, "_measured", lambda self: pytest.fail("nothing to measure"))
    assert Tapped(encoder, ["pooled"]).sizes == [3]


def test_a_compiled_call_is_used_where_no_layer_is_caught() -> None:
    called: list[str] = []
    encoder = Small()
    encoder.register_forward_hook(lambda *_: called.append("call"))
    Tapped(encoder, ["pooled"]).embed(torch.rand(2, 4))
    Tapped(encoder, ["task"]).embed(torch.rand(2, 4))
    assert called == ["call"] * 3  # once more to measure the space
    Tapped(encoder, ["first"]).embed(torch.rand(2, 4))
    assert len(called) == 3


def test_places_that_there_are() -> None:
    encoder = Small()
    assert [has(encoder, place) for place in ("pooled", "task", "first", "third", "")] == [True] * 3 + [False] * 2
    require_place(encoder, "task")
    with pytest.raises(UserError, match=r"this plain encoder has no layer 'frist'; did you mean 'first'\?"):
        require_place(encoder, "frist")
    with pytest.raises(UserError, match="known: first, idle, pooled, second, task"):
        require_place(encoder, "zzzzzz")
