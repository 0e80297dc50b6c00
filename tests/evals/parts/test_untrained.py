"""Random weights: the same architecture, drawn from a seed of its own, with the statistics of what it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.untrained import untrained, untrained_run, warming
from mmssl.evals.retrieval import Retrieval
from mmssl.nn.head import Projection
from mmssl.types import Encoder, Objective, Pretext, Trained, View


def small() -> Encoder:
    torch.manual_seed(7)
    encoder = create_encoder("convnet", image_size=16, widths=[4, 6], depths=[1, 1], stem_stride=1)
    encoder.spaces["clip"] = Projection(6, out=5, hidden=[3])
    return encoder.train()


def test_it_is_the_same_architecture_with_weights_from_a_seed() -> None:
    encoder = small()
    before = torch.get_rng_state()
    fresh = untrained(encoder)
    assert torch.equal(torch.get_rng_state(), before)
    assert fresh.config() == encoder.config() and fresh.preprocess is encoder.preprocess
    assert not fresh.training and encoder.training and fresh.spaces == {}
    torch.manual_seed(0)
    expected = create_encoder("convnet", image_size=16, widths=[4, 6], depths=[1, 1], stem_stride=1)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), expected.parameters(), strict=True))
    other = untrained(encoder, seed=1)
    assert not torch.equal(other.stem[0].weight, fresh.stem[0].weight)


def test_it_has_the_heads_architecture_of_a_space_that_there_is() -> None:
    encoder = small()
    fresh = untrained(encoder, spaces=["clip"], seed=3)
    assert list(fresh.spaces) == ["clip"] and fresh.spaces["clip"].config() == encoder.spaces["clip"].config()
    torch.manual_seed(3)
    create_encoder("convnet", image_size=16, widths=[4, 6], depths=[1, 1], stem_stride=1)
    head = Projection(6, out=5, hidden=[3])
    assert all(torch.equal(a, b) for a, b in zip(fresh.spaces["clip"].parameters(), head.parameters(), strict=True))
    assert not fresh.spaces["clip"].training
    assert untrained(encoder, spaces=["other"]).spaces == {}


def test_statistics_are_the_plain_mean_over_what_is_seen_meanwhile() -> None:
    encoder = small().eval()
    norms = [
        m
        for m in (*encoder.modules(), *encoder.spaces["clip"].modules())
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    assert len(norms) > 5
    seen: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_hook(
            lambda m, x, _: seen[m].append(x[0].transpose(0, 1).flatten(1).mean(1)) if m.training else None
        )
    with warming(encoder), torch.no_grad():
        assert encoder.training and encoder.spaces["clip"].training
        for _ in range(3):
            encoder.spaces["clip"](encoder(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)))
    assert not encoder.training and not encoder.spaces["clip"].training
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, torch.stack(seen[norm]).mean(0))


def test_an_encoder_is_found_by_its_key_or_because_it_is_the_only_one() -> None:
    image, audio = small(), create_encoder("raw:audio")
    alone, both = Trained({"image": image}), Trained({"image": image, "audio": audio})
    assert require_encoder(alone, None) is require_encoder(both, "image") is image
    assert require_encoder(both, "audio", modalities=("image", "audio")) is audio
    assert require_encoder(both, "image", space="clip", modalities=("image",)) is image
    for trained, key, options, told in (
        (both, None, {}, "the run has the encoders image, audio; say which with encoder"),
        (alone, "imag", {}, "there is no encoder 'imag'; did you mean 'image'"),
        (both, "audio", {"modalities": ("image", "video")}, "the encoder 'audio' reads audio; expected image or video"),
        (both, "image", {"space": "clop"}, "the encoder 'image' has no space 'clop'; did you mean 'clip'"),
        (both, "audio", {"space": "clip"}, "the encoder 'audio' has no space 'clip'; none is known"),
    ):
        with pytest.raises(UserError, match=told):
            require_encoder(trained, key, **options)  # type: ignore[arg-type]


class Own(Objective):
    """Has a layer that can be drawn anew, and weights of its own."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__(encoders)
        self.layer = nn.Linear(3, 2)
        self.weights = nn.Parameter(torch.arange(12.0).view(3, 4))


def test_a_run_with_random_weights_has_the_same_heads_and_tasks() -> None:
    encoder = small()
    objective = Own({"image": encoder})
    before = {name: values.clone() for name, values in objective.state_dict().items()}
    run = Trained({"image": encoder}, {"task": Pretext(objective, View, {"flip": 0.5})})
    one, two = untrained_run(run), untrained_run(run)
    assert list(one.encoders["image"].spaces) == ["clip"] and one.tasks["task"].options == {"flip": 0.5}
    fresh = one.tasks["task"].objective
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), two.tasks["task"].objective.parameters(), strict=True)
    )
    assert not torch.equal(fresh.layer.weight, objective.layer.weight) and fresh.layer.weight.abs().max() <= 3**-0.5
    assert not torch.equal(fresh.weights, objective.weights)
    assert torch.equal(fresh.weights.flatten().sort().values, torch.arange(12.0)), "its own values in another order"
    assert all(torch.equal(values, before[name]) for name, values in objective.state_dict().items())


def test_an_evaluation_shows_random_weights_beside_what_was_trained(color_shards: Path) -> None:
    torch.manual_seed(2)
    encoders = {"image": create_encoder("convnet", image_size=16, widths=[4], depths=[1], stem_stride=1)}
    encoders["text"] = create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280)
    for encoder in encoders.values():
        encoder.spaces["clip"] = Projection(encoder.dim, out=5, hidden=[3])
        encoder.eval()
    run, options = Trained(encoders), {"data": {"shards": str(color_shards)}, "k": (3,), "limit": 40}
    found = dict(Retrieval(**options, baselines=True).run(run))
    fresh = untrained_run(run)
    with warming(*fresh.encoders.values()), torch.no_grad():
        Retrieval(**options).warm(fresh)
    assert fresh.encoders["image"].stem[1].num_batches_tracked == 1  # of forty
    expected = dict(Retrieval(**options).run(run))
    expected |= {f"random_init/{name}": score for name, score in Retrieval(**options).run(fresh)}
    assert found == expected and found["random_init/image-text/R@3"] != found["image-text/R@3"]
