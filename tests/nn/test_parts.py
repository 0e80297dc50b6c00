"""Temperature, EMA and monitors."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.nn.ema import ema_update
from mmssl.nn.temperature import LogitScale
from mmssl.numerics.monitors import Alarm, assignment_entropy, effective_rank, monitors, uniformity


def test_the_scale_starts_at_its_inverse_temperature_and_stays_in_bounds() -> None:
    scale = LogitScale(start=1 / 0.07, ceiling=100.0)
    torch.testing.assert_close(scale(), torch.tensor(1 / 0.07))
    for far, bound in ((50.0, 100.0), (-50.0, 1.0)):
        scale.log.data.fill_(far)
        scale.clamp()
        torch.testing.assert_close(scale(), torch.tensor(bound))


def test_ema_moves_parameters_and_copies_buffers() -> None:
    model, average = (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in "ab")
    model(torch.randn(8, 3))
    before = [p.clone() for p in average.parameters()]
    ema_update(average, model, decay=0.9)
    for old, new, target in zip(before, average.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)
    torch.testing.assert_close(average[1].running_mean, model[1].running_mean)


def test_monitors_tell_spread_from_collapse() -> None:
    spread, collapsed = torch.randn(256, 16), torch.ones(256, 16) + 1e-4 * torch.randn(256, 16)
    logs = monitors({"image": spread, "text": collapsed})
    assert math.isclose(logs["image/std"], 1 / 4, rel_tol=0.1)
    assert logs["text/std"] < 1e-3
    assert logs["image/rank"] > 14 and logs["text/rank"] < 2
    assert logs["image/uniformity"] < -2 and logs["text/uniformity"] > -1e-3
    apart = (F.normalize(spread, dim=1).mean(0) - F.normalize(collapsed, dim=1).mean(0)).norm()
    torch.testing.assert_close(logs["image-text/gap"], apart)


def test_entropy_of_assignments_runs_from_one_cluster_to_all() -> None:
    assert assignment_entropy(torch.tensor([5.0, 0, 0, 0])) == 0 and assignment_entropy(torch.zeros(3, 4)) == 1
    torch.testing.assert_close(assignment_entropy(torch.eye(4)), torch.tensor(1.0))
    torch.testing.assert_close(assignment_entropy(torch.tensor([2, 2, 0, 0])), torch.tensor(0.5))


SPREAD = {"loss": 1.0, "image/std": 0.25, "image/rank": 9.0}


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ({"image/std": 0.001}, "all samples have had nearly the same image embedding"),
        ({"image/rank": 1.0}, "The features have collapsed"),
        ({"assignment_entropy": 0.01}, "assigned to one cluster"),
        ({"chance_loss": 1.01}, "the loss has stayed at 1.01"),
    ],
)
def test_the_alarm_says_once_what_lasts(sign: dict[str, float], words: str) -> None:
    alarm = Alarm(3)
    lines = [SPREAD, sign, sign, SPREAD, sign, sign, sign, sign, SPREAD, sign, sign, sign]
    said = [alarm.look("task", {**SPREAD, **line}, {"image": 16}) for line in lines]
    assert [bool(text) for text in said] == [False] * 6 + [True] + [False] * 5
    assert said[6] is not None and words in said[6] and said[6].startswith("task: for 3 lines of the log, ")


def test_the_alarm_is_quiet_about_what_is_well() -> None:
    alarm = Alarm(1)
    fine = {**SPREAD, "chance_loss": 2.0, "assignment_entropy": 0.9}
    assert alarm.look("a", fine, {"image": 16}) is None
    assert alarm.look("a", {"loss": 1.0}, {"image": 16}) is None  # a batch of one has no monitors


def test_effective_rank_counts_equal_directions() -> None:
    torch.testing.assert_close(effective_rank(torch.eye(8)), torch.tensor(8.0))


def test_uniformity_equals_the_formula() -> None:
    x = F.normalize(torch.randn(6, 3), dim=1)
    terms = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(6) for j in range(i)]
    assert math.isclose(uniformity(x), math.log(sum(terms) / len(terms)), rel_tol=1e-5)
