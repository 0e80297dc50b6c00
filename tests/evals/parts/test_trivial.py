from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from probing import reference
from torch import Tensor
from torch.nn import functional as F

from mmssl.evals.parts.trivial import _fitted, linear_answers, statistics
from mmssl.types import Ragged


def test_a_linear_rule_is_found_and_noise_is_not() -> None:
    features = torch.randn(300, 4)
    rule = (features @ torch.randn(4, 3)).argmax(dim=1)
    assert linear_answers(features, rule).mean() > 0.9
    noise = linear_answers(features, torch.randint(0, 3, (300,))).mean()
    assert 0.2 < noise < 0.47


def test_rows_of_one_group_do_not_answer_for_each_other() -> None:
    groups = torch.arange(60).repeat_interleave(5)
    features, labels = torch.nn.functional.one_hot(groups).float(), torch.randint(0, 2, (60,)).repeat_interleave(5)
    assert linear_answers(features, labels).mean() > 0.95  # every row's sisters are known
    assert linear_answers(features, labels, groups=groups).mean() < 0.75


def test_answers_are_right_or_wrong_without_gradients_and_the_same_again() -> None:
    with torch.inference_mode():
        features, labels = torch.randn(40, 2), torch.arange(40) % 2
        first, again = linear_answers(features, labels), linear_answers(features, labels)
    assert set(first.tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(first, again)


def test_features_that_never_change_do_not_break_it() -> None:
    features = torch.cat([torch.ones(50, 1), torch.arange(50.0)[:, None]], dim=1)
    assert linear_answers(features, (torch.arange(50) > 24).long()).mean() > 0.9


def test_statistics_of_pictures_are_colour_contrast_and_gradients() -> None:
    video = torch.zeros(2, 3, 2, 8, 8)
    video[0, 0] = 0.5  # red, and nothing else
    video[1, :, 1, :, 4:] = 1.0  # an edge in the second frame
    found = statistics({"video": [video]})["video"].view(2, 5, 3)  # of two frames, and how far they differ
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.5, 0, 0, 0, 0]))
    torch.testing.assert_close(found[1, :3, 1], torch.full((3,), 0.5))
    torch.testing.assert_close(found[1, :, 2], found[1, :, 1])
    assert found[1, 3, 1] > 0.45 and found[1, 4, 1] > 0.3
    whole = (255 * video).round().byte()
    torch.testing.assert_close(statistics({"video": [whole]})["video"].view(2, 5, 3), found, atol=3e-3, rtol=0)


def test_statistics_of_sound_and_clouds_have_loudness_and_size() -> None:
    sound = torch.zeros(1, 80)
    sound[0, 40:] = torch.tensor([1.0, -1.0]).repeat(20)
    found = statistics({"audio": [sound]})["audio"][0]
    assert found[0] < -20 and found[-2] == 0.0 and found[-1] > 0.4
    clouds = Ragged(torch.tensor([[1.0, 2, 3], [3, 2, 3], [0, 0, 0]]), torch.tensor([2, 1]))
    torch.testing.assert_close(
        statistics({"points_voxels": [clouds]})["points_voxels"],
        torch.tensor([[2, 2, 2, 3, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0.0]]),
    )


def penalised(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x @ w[:-1] + w[-1], y) + 0.01 * w[:-1].square().sum()


def test_it_is_logistic_regression_on_standardised_features() -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = (torch.randn(n, 3, generator=generator).double() * 4 + 7 for n in (40, 6))
    answer = ((known.sum(1) + 3 * torch.randn(40, generator=generator)) > 21).long()
    mean, deviation = known.numpy().mean(0), known.numpy().std(0)
    one, two = ((x - torch.from_numpy(mean)) / torch.from_numpy(deviation) for x in (known, asked))
    weight = reference(one, answer, loss=penalised, shape=(4, 2))
    found = _fitted(known, answer, asked, 2)
    torch.testing.assert_close(found, two @ weight[:-1] + weight[-1], atol=1e-3, rtol=0)
    assert not found.requires_grad


@pytest.mark.parametrize("folds", [2, 5])
def test_each_fold_is_answered_by_the_others(folds: int) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(24, 2, generator=generator)
    labels = 3 + 4 * ((features[:, 0] + torch.randn(24, generator=generator)) > 0).long()  # 3 and 7
    groups = torch.arange(24) // 2 * 5
    fold = (torch.randperm(12, generator=torch.Generator().manual_seed(0)) % folds)[torch.arange(24) // 2]
    expected = torch.zeros(24)
    for held in range(folds):
        rest = fold != held
        mean, deviation = features[rest].mean(0), features[rest].std(0, correction=0)
        x, z = ((part.double() - mean) / deviation for part in (features[rest], features[~rest]))
        weight = reference(x, (labels[rest] == 7).long(), loss=penalised, shape=(3, 2), steps=5)
        expected[~rest] = ((z @ weight[:-1] + weight[-1]).argmax(1) == (labels[~rest] == 7)).float()
    found = linear_answers(features, labels, groups=groups, folds=folds)
    assert torch.equal(found, expected) and 0.4 < found.mean() < 1
    if folds == 5:
        assert torch.equal(found, linear_answers(features, labels, groups=groups))


def test_every_row_is_answered_though_rows_are_few() -> None:
    assert linear_answers(torch.tensor([[0.0], [1]]), torch.tensor([1, 1])).tolist() == [1, 1]
    assert linear_answers(torch.tensor([[0.0], [1]]), torch.tensor([0, 1])).tolist() == [0, 0]
    assert linear_answers(torch.zeros(3, 1), torch.tensor([0, 1, 1]), groups=torch.zeros(3)).tolist() == [0, 0, 0]


def test_statistics_of_pictures_by_hand() -> None:
    pictures = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    other = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = statistics({"image_left": [pictures, other], "text": [torch.zeros(2, 4)]})
    assert list(found) == ["image_left"]
    rows = found["image_left"].view(2, 5, 3).numpy()
    for row in range(2):
        each = []
        for picture in (pictures[row].numpy(), other[row].numpy()):
            grey = picture.mean(0)
            energy = np.square(np.diff(grey, axis=1)).mean() + np.square(np.diff(grey, axis=0)).mean()
            each.append([*picture.mean((1, 2)), grey.std(ddof=1), np.sqrt(energy)])
        assert rows[row, :, 0] == pytest.approx(each[0], abs=1e-5)
        assert rows[row, :, 1] == pytest.approx(each[1], abs=1e-5)
        assert rows[row, :, 2] == pytest.approx(np.abs(np.subtract(*each)), abs=1e-5)


def test_statistics_of_three_frames_compare_each_pair_once() -> None:
    video = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = statistics({"video": [video]})["video"].view(5, 6)
    frames = [found[:, t] for t in range(3)]
    pairs = [(frames[a] - frames[b]).abs() for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found[:, 3:], torch.stack(pairs, 1))


def test_statistics_of_sounds_by_hand() -> None:
    sounds = torch.rand(2, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    sounds[0, :3] = 0.0
    found = statistics({"audio": [sounds, -2 * sounds], "audio_b": [sounds]})
    for row, samples in zip(found["audio_b"].numpy(), sounds.numpy(), strict=True):
        loud = [np.log(max(np.square(samples[3 * part : 3 * part + 3]).mean(), 1e-10)) for part in range(8)]
        crossings = np.mean([np.sign(a) != np.sign(b) for a, b in itertools.pairwise(samples)])
        assert row == pytest.approx([*loud, crossings], rel=1e-4)
    assert found["audio"].shape == (2, 18)
    torch.testing.assert_close(found["audio"][:, :9], found["audio_b"])
    torch.testing.assert_close(found["audio"][1, 9:17], found["audio_b"][1, :8] + 2 * np.log(2))


def test_statistics_of_clouds_by_hand() -> None:
    clouds = torch.rand(9, 4, generator=torch.Generator().manual_seed(0)).split([2, 5, 2])
    (found,) = statistics({"points": [Ragged.pack(clouds)]}).values()
    for mine, row in zip(map(Tensor.numpy, clouds), found.numpy(), strict=True):
        assert row == pytest.approx([len(mine), *mine.mean(0), *mine.std(0)], abs=1e-5)
