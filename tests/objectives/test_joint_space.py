"""The core between whole samples: which pairs are asked, of which samples, and what their losses are averaged over."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.nn.temperature import LogitScale
from mmssl.objectives.joint_space import JointSpace
from mmssl.types import Batch, View

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from tables import Table, numbers, present, same

KEYS = ("image", "text", "audio")
HAVE = {"image": present(1, 1, 1, 0, 1), "text": present(1, 0, 1, 1, 1), "audio": present(1, 1, 1, 1, 0)}


class Distance(JointSpace):
    """Costs whatever lies between a query and its key, and remembers what it was asked."""

    asked: list[Contrast]
    both_ways = True

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        self.asked.append(contrast)
        query, key = contrast.queries, contrast.keys[contrast.positives]
        ways = ((query, key), (key, query))[: 1 + self.both_ways]
        return tuple(contrast.scale * (a - 2 * b).square().sum(1) for a, b in ways)


def encoders(keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    return {key: Table(key, 3 + number) for number, key in enumerate(keys)}


def made(of: dict[str, Any], **options: Any) -> Distance:
    given: dict[str, Any] = {"embed_dim": 3, "hidden": (), "pairs": None, **options}
    objective = Distance(of, **given)
    objective.scale, objective.asked = LogitScale(start=2.5), []
    return objective


def shown(views: int = 2, **have: Tensor) -> Batch:
    some = {key: [numbers(*range(5 * v, 5 * v + 5)) for v in range(views)] for key in KEYS}
    return Batch(some, extra={f"{key}_present": value for key, value in (have or HAVE).items()})


def between(scale: Tensor, a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """The mean cost of the samples that have both."""
    return torch.stack([scale * (a[i] - 2 * b[i]).square().sum() for i in valid.nonzero()[:, 0]]).mean()


@pytest.mark.parametrize("pairs", [None, [("audio", "image")], [("text", "image"), ("text", "audio")]])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("intra_modal", [0.0, 0.3])
def test_the_mean_over_pairs_of_the_mean_over_samples(pairs: Any, both_ways: bool, intra_modal: float) -> None:
    of = encoders()
    objective, batch = made(of, pairs=pairs, intra_modal=intra_modal, hidden=(7, 6)), shown()
    objective.both_ways = both_ways
    asked = pairs or list(combinations(KEYS, 2))
    uses = tuple(dict.fromkeys(key for pair in asked for key in pair))
    assert objective.uses == uses and set(objective.heads) == set(uses)
    first, second = ({k: objective.heads[k](of[k](batch.views[k][v])) for k in uses} for v in (0, 1))
    across, inside, scale = {}, {}, objective.scale()
    for a, b in asked:
        valid = HAVE[a] & HAVE[b]
        across[f"{a}-{b}"] = between(scale, first[a], first[b], valid)
        if both_ways:
            across[f"{b}-{a}"] = between(scale, first[b], first[a], valid)
    for key in uses:
        inside[f"{key}-{key}_again"] = between(scale, first[key], second[key], HAVE[key])
        if both_ways:
            inside[f"{key}_again-{key}"] = between(scale, second[key], first[key], HAVE[key])
    expected = sum(across.values()) / len(across) + intra_modal * sum(inside.values()) / len(inside)
    found = objective(of, batch)
    same(found.total, expected, [*of.values(), objective])
    told = across | (inside if intra_modal else {})
    assert list(found.logs) == ["temperature", *(f"loss_{name}" for name in told)]
    for name, value in told.items():
        torch.testing.assert_close(found.logs[f"loss_{name}"], value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logs["temperature"], torch.tensor(1 / 2.5))
    assert not any(value.requires_grad for value in (*found.logs.values(), *found.embeddings.values()))
    assert set(found.embeddings) == set(uses)
    for key in uses:
        torch.testing.assert_close(found.embeddings[key], first[key].detach())


@pytest.mark.parametrize("hidden", [(), (7,)])
def test_a_modality_without_a_head_is_compared_as_it_is(hidden: tuple[int, ...]) -> None:
    """Its features of unit length are the joint space, whose size follows them; the others' heads lead there."""
    of = encoders()
    objective = made(of, embed_dim=None, headless=("text",), hidden=hidden)
    assert not [*objective.heads["text"].parameters()] and objective.heads["image"].embed_dim == of["text"].dim == 4
    batch = shown(1)
    objective.both_ways = False
    found = objective(of, batch)
    rows = {key: objective.heads[key](of[key](batch.views[key][0])) for key in ("image", "audio")}
    features = of["text"](batch.views["text"][0]).pooled
    rows["text"] = features / features.square().sum(1, keepdim=True).sqrt()
    pairs = [("image", "text"), ("image", "audio"), ("text", "audio")]
    costs = [between(objective.scale(), rows[a], rows[b], HAVE[a] & HAVE[b]) for a, b in pairs]
    same(found.total, torch.stack(costs).mean(), [*of.values(), objective])


def test_headless_names_what_is_matched_and_fits() -> None:
    with pytest.raises(UserError, match=r"headless names 'txet', which is not matched; .*text"):
        made(encoders(), headless=("txet",))
    with pytest.raises(UserError, match="headless names 'text', which is not matched"):
        made(encoders(), headless=("text",), pairs=[("image", "audio")])
    with pytest.raises(UserError, match="features of text have 4 numbers, the joint space has 3; leave text out"):
        made(encoders(), headless=("text",))
    with pytest.raises(UserError, match="features of text have 4 numbers, the joint space has 9"):
        made(encoders(), embed_dim=9, headless=("text",))
    with pytest.raises(UserError, match="features of audio have 5 numbers, the joint space has 4"):
        made(encoders(), embed_dim=None, headless=("text", "audio"))


def test_what_a_method_is_given_of_a_pair() -> None:
    of = encoders(("image", "text"))
    objective, batch = made(of), shown(1)
    objective(of, batch)
    (contrast,) = objective.asked
    for key, rows in (("image", contrast.queries), ("text", contrast.keys)):
        assert torch.equal(rows, objective.heads[key](of[key](batch.views[key][0])))
    assert contrast.positives.tolist() == [0, 1, 2, 3, 4]
    assert contrast.keep.tolist() == [True, False, True, False, True]


def test_what_is_multiplied_is_rounded_where_asked_for() -> None:
    of = encoders(("image", "text"))
    for bf16 in (False, True):
        objective = made(of, bf16=bf16)
        objective(of, shown(1))
        assert objective.asked[0].bf16 is bf16


def test_keys_are_those_of_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of two processes sees it, whose first has the same rows in another order."""
    monkeypatch.setattr(dist, "rank", lambda: 1)
    monkeypatch.setattr(dist, "gather", lambda x: torch.cat([x.flip(0), x]))
    monkeypatch.setattr(dist, "gather_with_grad", lambda x: torch.cat([x.flip(0), x]))
    of = encoders(("image", "text"))
    objective, batch = made(of), shown(1)
    objective(of, batch)
    contrast = objective.asked[0]
    assert contrast.positives.tolist() == [5, 6, 7, 8, 9]
    text = objective.heads["text"](of["text"](batch.views["text"][0]))
    torch.testing.assert_close(contrast.keys, torch.cat([text.flip(0), text]))
    assert contrast.keys.dtype == torch.float32
    valid = [True, False, True, False, True]
    assert contrast.keep.tolist() == [*reversed(valid), *valid]


def test_a_pair_that_no_sample_has_is_no_part_of_the_mean() -> None:
    of, none = encoders(), HAVE | {"audio": present(0, 0, 0, 0, 0)}
    everything, two = made(of), made(of, pairs=[("image", "text")])
    two.load_state_dict(everything.state_dict(), strict=False)
    found = everything(of, shown(**none))
    same(found.total, two(of, shown(**none)).total, of.values())
    assert found.logs["loss_image-audio"].isnan() and not found.logs["loss_text-image"].isnan()
    nothing = everything(of, shown(**dict.fromkeys(KEYS, present(0, 0, 0, 0, 0))))
    assert nothing.total == 0 and nothing.total.requires_grad


def test_the_scale_is_kept_in_its_bounds_and_the_heads_are_the_spaces() -> None:
    objective = made(encoders())
    objective.scale.log.data.fill_(9.0)
    objective.after_step({}, 0.5)
    assert objective.scale().item() == pytest.approx(100.0)
    objective.scale.log.data.fill_(-1.0)
    objective.after_step({}, 0.5)
    assert objective.scale().item() == 1.0
    assert objective.spaces() == dict(objective.heads.items())
    assert [type(layer).__name__ for layer in objective.heads["text"].layers] == ["Linear"]
    assert (objective.heads["text"].layers[0].in_features, objective.heads["text"].layers[0].out_features) == (4, 3)


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(UserError, match="needs two modalities, but the only encoder is image"):
        made(encoders(("image",)))
    with pytest.raises(UserError, match="pairs names 'sound', but there is no such encoder"):
        made(encoders(), pairs=[("image", "sound")])
    of = encoders()
    made(of, intra_modal=0.5)(of, shown(2))
    made(of, intra_modal=0.0)(of, shown(1))
    with pytest.raises(UserError, match="intra_modal matches two views of image, but one is shown"):
        made(of, intra_modal=0.5)(of, shown(1))


def test_one_view_is_refused_before_a_run() -> None:
    of = encoders()
    view = View({})
    made(of, intra_modal=0.0).check_view(view)
    with pytest.raises(UserError, match="two views of image, but one is shown"):
        made(of, intra_modal=0.5).check_view(view)
    view.shows = dict.fromkeys(of, 2)
    made(of, intra_modal=0.5).check_view(view)
