from __future__ import annotations

import torch

from mmssl.evals.trivial import linear_answers, statistics


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
    clouds = torch.tensor([[0, 1.0, 2, 3], [0, 3, 2, 3], [1, 0, 0, 0]])
    torch.testing.assert_close(
        statistics({"points_voxels": [clouds]})["points_voxels"],
        torch.tensor([[2, 2, 2, 3, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0.0]]),
    )
