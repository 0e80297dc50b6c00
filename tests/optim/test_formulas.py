"""Every optimizer's steps and defaults, and the groups of weights, against plain loops."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import timm
import torch
import transformers
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.optim.groups import layer_groups, layer_scales, layers, param_groups
from mmssl.optim.schedule import Rate, cosine, ramp, warmup_cosine
from mmssl.types import Encoder

DEFAULTS = {
    # CLIP, Radford et al., 2021, table 19 (ViT-B/32: 5e-4, 0.2, 0.9, 0.98, 1e-6)
    "adamw": {"lr": 5e-4, "weight_decay": 0.2, "betas": (0.9, 0.98), "eps": 1e-6},
    # MoCo, He et al., CVPR 2020, section 4.1
    "sgd": {"lr": 0.03, "weight_decay": 1e-4, "momentum": 0.9, "nesterov": False},
    # SimCLR, Chen et al., ICML 2020, section 2.2: 0.3 * 4096 / 256; trust of 0.001: You et al., 2017
    "lars": {"lr": 4.8, "weight_decay": 1e-6, "momentum": 0.9, "trust": 0.001, "vectors": 1.0},
}


@pytest.mark.parametrize("name", names.list_names("optim"))
def test_defaults(name: str) -> None:
    factory = names.resolve("optim", name)[0]
    given = {k: p.default for k, p in inspect.signature(factory).parameters.items() if p.default is not p.empty}
    assert given == DEFAULTS[name]
    made = factory([{"params": [nn.Parameter(torch.ones(2, 2))]}])
    group = made.param_groups[0]
    assert {key: group.get(key, getattr(made, key, None)) for key in given} == given


def gradients(shape: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for _ in range(5)]


def after(name: str, shape: tuple[int, ...], bad: tuple[int, ...] = (), **options: Any) -> tuple[Any, ...]:
    """Returns a weight of ones' start, the gradients of five steps, and the weight after them."""
    start = torch.randn(shape, dtype=torch.float64)
    weight, grads = nn.Parameter(start.clone()), gradients(shape)
    optimizer = names.build("optim", name, [{"params": [weight]}], **options)
    for step, grad in enumerate(grads):
        weight.grad = torch.full_like(grad, torch.nan) if step in bad else grad.clone()
        optimizer.found_inf = torch.tensor(float(step in bad))
        optimizer.step()
    return start, [grad for step, grad in enumerate(grads) if step not in bad], weight.detach()


@pytest.mark.parametrize("bad", [(), (0, 2)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(bad: tuple[int, ...], nesterov: bool) -> None:
    options = {"lr": 0.3, "weight_decay": 0.1, "momentum": 0.8, "nesterov": nesterov}
    w, grads, found = after("sgd", (3, 2), bad, **options)
    v = torch.zeros_like(w)
    for grad in grads:
        g = grad + 0.1 * w
        v = 0.8 * v + g
        w = w - 0.3 * (g + 0.8 * v if nesterov else v)
    torch.testing.assert_close(found, w)


def test_sgd_whose_first_step_is_skipped_begins_without_momentum() -> None:
    weight = nn.Parameter(torch.ones(3))
    made = names.build("optim", "sgd", [{"params": [weight]}], momentum=0.9)
    assert torch.equal(made.state[weight]["momentum_buffer"], torch.zeros(3))
    assert not names.build("optim", "sgd", [{"params": [weight]}], momentum=0.0).state
    assert made.param_groups[0]["fused"]


@pytest.mark.parametrize("bad", [(), (0, 2)])
def test_adamw(bad: tuple[int, ...]) -> None:
    w, grads, found = after("adamw", (3, 2), bad, lr=0.1, weight_decay=0.3, betas=(0.7, 0.95), eps=0.01)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, grad in enumerate(grads, start=1):
        m, v = 0.7 * m + 0.3 * grad, 0.95 * v + 0.05 * grad**2
        w = w - 0.1 * 0.3 * w - 0.1 * (m / (1 - 0.7**step)) / ((v / (1 - 0.95**step)).sqrt() + 0.01)
    torch.testing.assert_close(found, w)


@pytest.mark.parametrize("bad", [(), (0, 2)])
@pytest.mark.parametrize("shape", [(3, 2), (4,), (2, 2, 2)])
def test_lars(shape: tuple[int, ...], bad: tuple[int, ...]) -> None:
    options = {"lr": 0.5, "weight_decay": 0.1, "momentum": 0.7, "trust": 0.02, "vectors": 0.25}
    w, grads, found = after("lars", shape, bad, **options)
    v = torch.zeros_like(w)
    for grad in grads:
        if len(shape) == 1:
            v = 0.7 * v + grad
            w = w - 0.5 * 0.25 * v
        else:
            g = grad + 0.1 * w
            v = 0.7 * v + 0.02 * (w**2).sum().sqrt() / (g**2).sum().sqrt() * g
            w = w - 0.5 * v
    torch.testing.assert_close(found, w)


def test_lars_without_a_word_on_bad_gradients_steps() -> None:
    weight = nn.Parameter(torch.full((2, 2), 3.0))
    optimizer = names.build("optim", "lars", [{"params": [weight]}], lr=0.5, weight_decay=0.0, trust=0.1)
    weight.grad = torch.full((2, 2), 2.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 3.0 - 0.5 * 0.1 * 3))  # |w| / |g| = 3 / 2, times 2


@pytest.mark.parametrize(("start", "grad"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_has_no_ratio_where_weight_or_step_is_zero(start: float, grad: float) -> None:
    weight = nn.Parameter(torch.full((2, 2), start))
    optimizer = names.build("optim", "lars", [{"params": [weight]}], lr=0.5, weight_decay=0.0, trust=0.1)
    weight.grad = torch.full((2, 2), grad)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), start - 0.5 * grad))


def test_lars_leaves_what_has_no_gradient_and_takes_each_groups_own_rate() -> None:
    still, slow = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = names.build("optim", "lars", [{"params": [still]}, {"params": [slow], "lr": 0.125}], lr=1.0)
    slow.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(still.detach(), torch.ones(2))
    torch.testing.assert_close(slow.detach(), torch.full((2,), 0.875))


def test_groups_have_their_options_and_hold_what_trains() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Conv1d(2, 2, 3))
    model[1].weight.requires_grad_(False)
    groups = param_groups(model)
    held = [[id(p) for p in group["params"]] for group in groups]
    assert held == [
        [id(model[0].weight), id(model[2].weight)],
        [id(model[0].bias), id(model[1].bias), id(model[2].bias)],
    ]
    assert [{k: v for k, v in group.items() if k != "params"} for group in groups] == [
        {},
        {"weight_decay": 0.0},
    ]
    mine = [{"params": [model[0].bias, model[1].weight, model[2].weight], "lr": 3.0, "weight_decay": 0.2}]
    assert [(len(group.pop("params")), group) for group in param_groups(model, own=mine)] == [
        (1, {}),
        (2, {"weight_decay": 0.0}),
        (1, {"lr": 3.0, "weight_decay": 0.2}),
        (1, {"lr": 3.0, "weight_decay": 0.2}),
    ]


def test_named_parts_have_their_options_and_vectors_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    fast = {"lr": 3.0, "weight_decay": 0.2, "part": "fast"}
    named = {id(p): fast for layer in (model[0], model[2]) for p in layer.parameters()}
    groups = param_groups(model, own=[{"params": [model[2].weight], "lr": 5.0}], named=named)
    held = [[id(p) for p in group.pop("params")] for group in groups]
    assert held == [
        [id(model[1].weight)],
        [id(model[1].bias)],
        [id(model[0].weight)],
        [id(model[0].bias), id(model[2].bias)],
        [id(model[2].weight)],
    ]
    assert groups == [{}, {"weight_decay": 0.0}, fast, {**fast, "weight_decay": 0.0}, {**fast, "lr": 5.0}]


@pytest.mark.parametrize(("name", "options"), [("test_vit", {}), ("resnet10t", {}), ("resnet26t", {})])
def test_layers_of_timm_are_those_of_its_own_layer_decay(name: str, options: dict[str, Any]) -> None:
    """Theirs counts the classifier as the last layer, as here what stands behind the encoder."""
    theirs = timm.create_model(name, num_classes=3)
    names_of = {id(p): key for key, p in theirs.named_parameters()}
    groups = param_groups_layer_decay(theirs, weight_decay=0.1, layer_decay=0.7)
    expected = {names_of[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    encoder = create_encoder(f"timm:{name}")
    found = {id(p): scale for scale, weights in layer_scales(encoder, decay=0.7) for p in weights}
    mine = {key.removeprefix("model."): found[id(p)] for key, p in encoder.named_parameters()}
    heads = {key for key in expected if key.startswith(("head", "fc."))}
    assert heads and all(expected.pop(key) == 1 for key in heads)
    assert mine == pytest.approx(expected) and len(set(mine.values())) > 3


@pytest.mark.parametrize("depth", [1, 3])
def test_layers_of_a_transformer_have_the_rates_of_beit_and_mae(depth: int) -> None:
    """decay^(depth + 1 - layer), the embedding being layer 0 and block i layer i + 1 (their get_layer_id_for_vit)."""
    small = {"hidden_size": 8, "num_hidden_layers": depth, "num_attention_heads": 1, "intermediate_size": 8}
    bert = transformers.BertConfig(**small, vocab_size=300).to_dict()
    vit = {"image_size": 32, "width": 8, "heads": 1, "depth": depth, "positions": "learned"}
    for name, options, blocks in (
        ("vit", vit, "blocks.layers."),
        ("transformers", {"architecture": bert}, "model.encoder.layer."),
    ):
        encoder = create_encoder(name, **options)
        found = {id(p): scale for scale, weights in layer_scales(encoder, decay=0.7) for p in weights}
        for key, p in encoder.named_parameters():
            layer = int(key.removeprefix(blocks).partition(".")[0]) + 1 if key.startswith(blocks) else 0
            assert found[id(p)] == pytest.approx(0.7 ** (depth + 1 - (depth if key.startswith("norm.") else layer))), (
                key
            )


@pytest.mark.parametrize(("step", "rate"), [(0, 0.5 / 3), (2, 0.5), (6, 0.5 * 0.6), (10, 0.5 * 0.2)])
def test_a_group_has_its_own_schedule(step: int, rate: float) -> None:
    own = {"lr": 0.5, "lr_scale": 0.3, "warmup": 2, "final_lr": 0.2}
    made = Rate.of(own, warmup=5, final=0.9)
    assert made.at(step, steps=10) == pytest.approx(rate) and made.scale == 0.3
    assert Rate.of({"lr": 0.5}, warmup=5, final=0.9) == Rate(0.5, 1.0, 5, 0.9)


class Stacked(Encoder):
    """Codes beside the layers, a stem of operations, a stack of blocks, a norm and a pool of two operations."""

    modality = "image"

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.zeros(1, 2))
        self.stem = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
        self.empty = nn.ReLU()
        self.norm = nn.LayerNorm(2)
        self.pool = nn.Sequential(nn.Linear(2, 2), nn.Tanh())


class Wrapped(Encoder):
    """An encoder around another, with a layer of its own."""

    modality = "image"

    def __init__(self) -> None:
        super().__init__()
        self.inner = Stacked()
        self.last = nn.Linear(2, 2)


class Alone(Encoder):
    """An encoder whose only module is another library's model."""

    modality = "image"

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.LayerNorm(2))


def named(encoder: Encoder) -> list[list[str]]:
    names_of = {id(p): key for key, p in encoder.named_parameters()}
    return [[names_of[id(p)] for p in layer] for layer in layers(encoder)]


def pair(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def test_layers_from_input_to_output() -> None:
    stacked = [
        ["codes", *pair("stem.0")],
        pair("blocks.0.0") + pair("blocks.0.1"),
        pair("blocks.1.0") + pair("blocks.1.1") + pair("norm"),
        pair("pool.0"),
    ]
    assert named(Stacked()) == stacked
    inner = [[f"inner.{key}" for key in layer] for layer in stacked]
    assert named(Wrapped()) == [*inner[:3], inner[3] + pair("last")]
    assert named(Alone()) == [pair("model.0"), pair("model.1.0") + pair("model.2")]


def test_an_encoder_without_modules_is_one_layer() -> None:
    class Codes(Encoder):
        modality = "image"

        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.zeros(1, 2))

    assert named(Codes()) == [["codes"]]
    (group,) = layer_groups(Codes(), lr=0.8, decay=0.5)  # no group is empty
    assert group["lr"] == pytest.approx(0.4) and len(group["params"]) == 1


def test_rates_fall_from_the_output_to_the_input() -> None:
    encoder = Stacked()
    groups = layer_groups(encoder, lr=0.8, decay=0.5)
    names_of = {id(p): key for key, p in encoder.named_parameters()}
    found = {names_of[id(p)]: (group["lr"], group.get("weight_decay")) for group in groups for p in group["params"]}
    rates = {"codes": 0.05, "stem": 0.05, "blocks.0": 0.1, "blocks.1": 0.2, "norm": 0.2, "pool": 0.4}
    for key, (rate, decay) in found.items():
        assert rate == pytest.approx(next(value for start, value in rates.items() if key.startswith(start))), key
        assert decay == (None if (key.endswith("weight") and not key.startswith("norm")) or key == "codes" else 0.0), (
            key
        )
    assert len(found) == len(names_of)
    assert all(group["params"] for group in groups)


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "final", "factor"),
    [
        (0, 10, 0, 0.0, 1.0),
        (0, 10, 4, 0.0, 1 / 5),
        (3, 10, 4, 0.0, 4 / 5),
        (4, 10, 4, 0.0, 1.0),
        (7, 10, 4, 0.0, 0.5),
        (6, 10, 4, 0.2, 0.2 + 0.8 * (1 + math.cos(math.pi / 3)) / 2),
        (10, 10, 4, 0.2, 0.2),
        (15, 10, 4, 0.2, 0.2),
        (4, 4, 4, 0.2, 1.0),  # nothing is left to fall in
        (5, 4, 4, 0.2, 0.2),
    ],
)
def test_the_rate_at_a_step(step: int, steps: int, warmup: int, final: float, factor: float) -> None:
    assert warmup_cosine(step, steps=steps, warmup=warmup, final=final) == pytest.approx(factor)
    if not final:
        assert warmup_cosine(step, steps=steps, warmup=warmup) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("done", "half", "line"), [(0.0, 3.0, 3.0), (0.25, 2.7071, 1.0), (0.5, 2.0, -1.0), (1.0, 1.0, -1.0)]
)
def test_a_value_on_half_a_cosine_and_on_a_line(done: float, half: float, line: float) -> None:
    assert cosine(done, start=3.0, end=1.0) == pytest.approx(half, abs=1e-4)
    assert ramp(done, start=3.0, end=-1.0, over=0.5) == pytest.approx(line)
