"""What encoders are shown of clips, sounds, clouds and texts."""

import pickle

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio as sounds
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.transforms import audio, point_steps, points, text, video


def clip(count=40, fps=10.0, height=8, width=12):
    return Frames(np.stack([np.full((height, width, 3), 5 * i, np.uint8) for i in range(count)]), fps)


def shown(tensor):
    return [int(v) // 5 for v in tensor[0, :, 0, 0]]


def test_video_window_is_the_middle():
    assert shown(video.VideoPreprocess(8, frames=4, fps=10)(clip())) == [18, 19, 20, 21]
    assert shown(video.VideoPreprocess(8, frames=4, fps=5)(clip())) == [17, 19, 21, 23]
    assert shown(video.VideoPreprocess(8, frames=4, seconds=2.0)(clip())) == [12, 17, 22, 27]
    assert shown(video.VideoPreprocess(8, frames=4)(clip())) == [5, 15, 25, 35]
    assert shown(video.VideoPreprocess(8, frames=6, fps=10)(clip(count=3))) == [0, 1, 2, 2, 2, 2]


def test_video_shapes():
    prepare = video.VideoPreprocess(6, frames=2)
    assert prepare(clip()).shape == prepare.blank().shape == (3, 2, 6, 6)
    assert prepare(torch.zeros(3, 5, 7, 9)).shape == prepare(np.zeros((5, 7, 9, 3), np.uint8)).shape == (3, 2, 6, 6)
    assert len(prepare.items(torch.zeros(4, 3, 5, 7, 9))) == 4 and len(prepare.items(torch.zeros(3, 5, 7, 9))) == 1
    assert video.VideoPreprocess(**prepare.config()) == prepare
    with pytest.raises(UserError, match="not by both"):
        video.VideoPreprocess(fps=1, seconds=1)


def test_audio_is_the_middle_padded():
    prepare = audio.AudioPreprocess(100, 2.0)
    assert prepare(np.linspace(0, 0.5, 501)).tolist() == pytest.approx((np.arange(150, 350) / 1000).tolist(), abs=2e-3)
    short = prepare(torch.full((50,), 0.5))
    assert short.shape == prepare.blank().shape == (200,) and short[:50].min() == 0.5 and short[50:].max() == 0
    file = sounds.encode(np.full(32_000, 0.25), sample_rate=16_000)
    assert audio.AudioPreprocess(16_000, 1.0)(file).median() == pytest.approx(0.25, abs=1e-3)
    assert len(prepare.items(torch.zeros(4, 50))) == 4 and len(prepare.items(torch.zeros(50))) == 1
    assert audio.AudioPreprocess(**prepare.config()) == prepare


def test_gain_is_bounded():
    gains = torch.stack([audio.gain(torch.ones(1)) for _ in range(50)])
    assert 0.5 < gains.min() < 0.9 and 1.1 < gains.max() < 2.0


def cloud(count=200):
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    return Cloud(rng.normal(size=(count, 3)) + 5, color, rng.normal(size=(count, 3)))


def test_points_columns_and_packing():
    prepare = points.PointsPreprocess(50, ["color", "normal"])
    thin = prepare(cloud())
    assert thin.shape == (50, 9) and torch.equal(thin, prepare(cloud()))
    assert thin[:, 3:6].min() >= 0 and 0.9 < thin[:, 3:6].max() <= 1
    batch = prepare.collate([thin, prepare.blank(), thin[:7]])
    assert batch.values.shape == (58, 9)
    assert batch.lengths.tolist() == [50, 1, 7] and torch.equal(batch.values[:50], thin)
    assert points.PointsPreprocess(**prepare.config()) == prepare
    assert points.PointsPreprocess(None, centre=True)(cloud()).mean(0).abs().max() < 1e-5
    assert len(prepare.items(np.zeros((2, 5, 3)))) == 2 and len(prepare.items(np.zeros((5, 3)))) == 1
    with pytest.raises(DamagedError, match="without color"):
        prepare(Cloud(cloud().xyz))
    with pytest.raises(UserError, match="no feature 'colour'"):
        points.PointsPreprocess(features=("colour",))


@pytest.mark.parametrize("axis", ["vertical", "any"])
def test_rotations_are_rotations(axis):
    turns = np.stack([points.random_rotation(axis=axis) for _ in range(300)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-5)
    assert np.allclose(np.linalg.det(turns), 1, atol=1e-5)
    assert np.abs(turns.mean(0)[:2, :2]).max() < 0.2
    assert (axis == "vertical") == np.allclose(turns[:, 2, 2], 1)


def test_point_operations():
    thin = point_steps.thinned(point_steps.Placed.whole(cloud()), 20)
    few = thin.cloud
    assert len(few) == 20 and len(np.unique(few.xyz, axis=0)) == 20 and point_steps.thinned(thin, 99) is thin
    turned = points.rotate(few, points.random_rotation(axis="any"))
    assert np.allclose(np.linalg.norm(turned.xyz, axis=1), np.linalg.norm(few.xyz, axis=1), atol=1e-4)
    assert np.allclose((turned.xyz * turned.normal).sum(1), (few.xyz * few.normal).sum(1), atol=1e-4)
    assert 0.005 < (points.jitter(few, sigma=0.01).xyz - few.xyz).std() < 0.02
    assert np.allclose(points.scaled(few, 2).xyz, 2 * few.xyz)


def tokenizer():
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "?", "a", "red", "ball", "bounces"])}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return made


def test_text_is_padded_cut_and_counted():
    own = tokenizer()
    prepare = text.TextPreprocess(own, context_length=5)
    tokens = prepare.collate([prepare("a red ball bounces"), prepare(["a ball", "other"]), prepare.blank()])
    assert tokens.values.tolist() == [[1, 4, 5, 6, 2], [1, 4, 6, 2, 0], [1, 2, 0, 0, 0]] and tokens.padded
    assert tokens.lengths.tolist() == [5, 4, 2] and tokens.values.dtype == tokens.lengths.dtype == torch.int64
    assert prepare.collate(["a"]).values.shape == (1, 3), "no longer than the longest"
    assert prepare.take_notes() == {"text truncated": 1} and not prepare.take_notes()
    assert own.truncation is None and own.padding is None, "a tokenizer of the user's stays as it was"


def test_text_pads_with_the_encoders_token():
    made = text.TextPreprocess(tokenizer(), pad_id=2).collate(["a ball", "a"])
    assert made.values.tolist() == [[1, 4, 6, 2], [1, 4, 2, 2]]
    assert made.lengths.tolist() == [4, 3], "an end token that is the padding's counts once"


def test_tokens_that_were_padded_by_hand_end_before_the_padding():
    prepare = text.TextPreprocess(tokenizer(), pad_id=3)
    ids = torch.tensor([[1, 3, 4, 3], [3, 3, 3, 3], [1, 1, 1, 1]])
    made = prepare.words(ids)
    assert made.values is ids and made.padded and made.lengths.tolist() == [3, 1, 4]
    assert prepare.words(made) is made


def test_text_config_and_pickle():
    prepare = text.TextPreprocess(tokenizer(), context_length=7, pad_id=3)
    assert prepare.config() == {"context_length": 7, "pad_id": 3}
    again = pickle.loads(pickle.dumps(prepare))
    assert torch.equal(again.collate(["a ball"]).values, prepare.collate(["a ball"]).values)
    assert again.config() == prepare.config()
    assert prepare.items("a ball") == ["a ball"] and prepare.items(["a", "b"]) == ["a", "b"]


def test_choice_of_captions():
    assert {text.choose(["a", "b"]) for _ in range(50)} == {"a", "b"} and text.choose("a") == "a"
