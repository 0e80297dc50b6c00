"""CIDEr-D against coco-caption's figures, a case worked out by hand, and what it must not reward."""

from __future__ import annotations

import math

import pytest

from mmssl.evals.parts.cider import CiderD, words_of

REFERENCES = [["a red ball", "the small red ball bounces"], ["a blue cube"], ["a blue ball on a mat", "a ball"]]
CAPTIONS = ["a red red ball", "a blue cube on a mat", "a ball on a mat"]


def test_values_are_those_of_coco_caption() -> None:
    """pycocoevalcap 1.2: Cider().compute_score of these captions, words cut at spaces."""
    score = CiderD([[text.split() for text in several] for several in REFERENCES])
    found = [score(text.split(), number) for number, text in enumerate(CAPTIONS)]
    assert found == pytest.approx([2.3471578300440346, 3.5873962224341804, 4.1495794169089], rel=1e-12)


def test_by_hand() -> None:
    """Two images, one reference each; `x` is in both and weighs nothing, y and z log 2. One word, of four sizes."""
    score = CiderD([[["x", "y"]], [["x", "z", "z"]]])
    assert score(["y"], 0) == pytest.approx(10 / 4 * math.exp(-1 / 72))
    weight = math.log(2)
    clipped = min(3 * weight, 2 * weight) * 2 * weight / (3 * weight * 2 * weight)  # 2 / 3
    pairs = (
        min(2 * weight, weight) * weight / (2 * weight * math.sqrt(2) * weight)
    )  # (z, z) twice against (x, z), (z, z)
    assert score(["z", "z", "z"], 1) == pytest.approx(10 / 4 * (clipped + pairs))
    assert score(["x"], 0) == score([], 0) == score(["new"], 1) == 0


def test_words_are_cut_without_punctuation() -> None:
    assert words_of("A man's T-shirt, 2 dogs -- and a_cat!") == [
        "a",
        "man's",
        "t-shirt",
        "2",
        "dogs",
        "and",
        "a",
        "cat",
    ]
    assert words_of("…") == []
