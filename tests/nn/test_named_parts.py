"""Parts of a network by name."""

from __future__ import annotations

import pytest
from torch import nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.named_parts import parts_of, weights_of


class Net(nn.Module):
    """A body around a stack, beside a token; the whole lies in a module that holds no other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.token = nn.Parameter(nn.Linear(1, 2).weight)
        self.body.blocks = nn.Module()
        self.body.blocks.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))
        self.body.layer1, self.body.layer2 = nn.Linear(2, 2), nn.Linear(2, 2)
        self.drop = nn.Dropout()


def test_names_find_modules_and_parameters() -> None:
    net, other = Net(), nn.Linear(1, 1)
    roots = {"net": net, "other": other}

    def found(name: str) -> list[object]:
        return list(parts_of(roots, name, where="here"))

    stack = list(net.body.blocks.layers)
    assert found("net") == [net] and found("other.bias") == [other.bias]
    assert found("net.body.blocks.layers.0-2") == found("net.blocks.0-2") == stack[:3]
    assert found("net.blocks.10-11") == stack[10:] and found("net.blocks.11") == stack[11:]
    assert found("net.layer1-2") == [net.body.layer1, net.body.layer2]
    assert found("net.token") == [net.body.token]
    assert found("net.blocks.3-4.bias") == [stack[3].bias, stack[4].bias]
    held = list(weights_of(parts_of(roots, "net.blocks.1-2", where="")))
    assert list(map(id, held)) == [id(p) for block in stack[1:3] for p in block.parameters()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nett", "here names 'nett'; did you mean 'net'?"),
        ("net.blocsk", "here: net has no part 'blocsk'; did you mean 'blocks'?"),
        ("net.blocks.6-12", "here: net.blocks has no parts '6-12'; it has 0 to 11"),
        ("net.blocks.5-3", "here: net.blocks has no parts '5-3'; it has 0 to 11"),
        ("net.layer0-2", "here: net has no parts 'layer0-2'; it has layer1 to layer2"),
        ("net.stage1-2", "here: net has no parts 'stage1-2'; it has no numbered stage"),
        ("net.token.bias", "here: net.token has no part 'bias'; none is known"),
        ("net.", "here: net has no part ''; known: "),
    ],
)
def test_names_that_match_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parts_of({"net": Net(), "other": nn.Linear(1, 1)}, name, where="here")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "options", "short", "long"),
    [
        ("vit", {"width": 8, "heads": 1, "depth": 3, "image_size": 32}, "blocks.0-1", "blocks.layers."),
        ("timm:test_vit", {}, "blocks.0-1", "model.blocks."),
        ("timm:resnet10t", {}, "layer1-2", "model.layer"),
        ("frames", {"image": {"name": "convnet", "image_size": 16, "widths": [4, 4, 4], "depths": [1, 1, 1]}},
         "blocks.0-1", "image.blocks."),
    ],
)  # fmt: skip
def test_blocks_of_an_encoder_have_short_names(name: str, options: dict[str, object], short: str, long: str) -> None:
    encoder = create_encoder(name, **options)
    held = {id(p) for p in weights_of(parts_of({"image": encoder}, f"image.{short}", where=""))}
    first = 1 if "layer" in long.rpartition(".")[2] else 0
    expected = {
        key for key, _ in encoder.named_parameters() if key.startswith((f"{long}{first}", f"{long}{first + 1}"))
    }
    assert expected and {key for key, p in encoder.named_parameters() if id(p) in held} == expected
