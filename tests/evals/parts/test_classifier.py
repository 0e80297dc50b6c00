"""Classifiers made of words: prompts by hand, and lists from files and cards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.classifier import (
    TEMPLATES,
    check_classes,
    check_templates,
    embedded_prompts,
    embedded_with_plain,
    read_classes,
    read_lines,
    read_templates,
    zero_shot_classifier,
)


class Words:
    """Embeds each prompt by its length and its first letter, in no particular length."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Any]] = []

    def encode(self, prompts: list[str], *, space: str) -> torch.Tensor:
        self.asked.append((prompts, space))
        return torch.tensor([[float(len(p)), float(ord(p[0])), 1 + p.count("a")] for p in prompts])


def test_prompts_are_every_class_in_every_template() -> None:
    words: Any = Words()
    found = embedded_prompts(words, [" cat ", "horse"], ["{}", "a {} {}"], space="clip")
    assert words.asked == [(["cat", "horse", "a cat cat", "a horse horse"], "clip")]
    rows = [[3.0, 99, 2], [5, 104, 1], [9, 97, 4], [13, 97, 2]]
    unit = F.normalize(torch.tensor(rows), dim=1)
    torch.testing.assert_close(found, torch.stack([unit[:2], unit[2:]]))
    weights = zero_shot_classifier(words, ["cat", "horse"], ["{}", "a {} {}"], space="clip")
    torch.testing.assert_close(weights, torch.stack([F.normalize(unit[[c, c + 2]].mean(0), dim=0) for c in range(2)]))
    zero_shot_classifier(words, ["cat", "horse"], space="other")
    assert words.asked[-1] == ([t.replace("{}", name) for t in TEMPLATES for name in ("cat", "horse")], "other")


def test_templates_by_default() -> None:
    assert TEMPLATES == ("{}", "a {}", "a photo of a {}", "an image of a {}", "one {}")
    assert read_templates(None) == list(TEMPLATES)


def test_templates_by_the_name_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo").write_text("a file of {}")
    assert read_templates("plain") == ["{}"] and read_templates("photo") == ["a photo of a {}."]
    assert read_templates("./photo") == ["a file of {}"] and read_templates("short") == read_templates(None)
    eighty = read_templates("imagenet80")
    assert len(eighty) == len(set(eighty)) == 80 and all(one.count("{}") == 1 for one in eighty)
    assert eighty[0] == "a bad photo of a {}." and eighty[-1] == "a tattoo of the {}."
    open_clip = pytest.importorskip("open_clip.zero_shot_metadata")
    assert eighty == [make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]


def test_the_plain_name_is_embedded_once() -> None:
    words: Any = Words()
    for templates in (["a {}"], ["a {}", "{}", "b {}"]):
        found, plain = embedded_with_plain(words, ["cat", "horse"], templates, space="clip")
        every = [*templates, *([] if "{}" in templates else ["{}"])]
        whole = embedded_prompts(words, ["cat", "horse"], every, space="clip")
        assert words.asked[-2] == words.asked[-1]
        torch.testing.assert_close(found, whole[: len(templates)])
        torch.testing.assert_close(plain, whole[1])


def test_lists_that_cannot_be_used() -> None:
    assert check_classes([" a", "b "]) == ["a", "b"]
    assert check_classes(["caf\u0065\u0301", "b"]) == ["caf\u00e9", "b"]
    for classes, told in (
        (["a"], "there is 1 class; expected at least two"),
        ([], "there is 0 class"),
        (["a", " "], "class 2 is empty"),
        (["b", "a", "c", "a ", "b"], "classes that come twice: a, b; each"),
    ):
        with pytest.raises(UserError, match=told):
            check_classes(classes)
    assert check_templates(("a {}",)) == ["a {}"]
    with pytest.raises(UserError, match="there is no prompt template"):
        check_templates([])
    with pytest.raises(UserError, match=r"the template 'b' has no \{\} for the class name"):
        check_templates(["a {}", "b"])


def test_lists_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_bytes("\ufeff cat \r\n\r\nd\u00f6g\rcow\n".encode())
    assert read_lines(file) == ["cat", "d\u00f6g", "cow"] == read_classes(str(file))
    file.write_text("a {}\n{} b\n")
    assert read_templates(str(file)) == ["a {}", "{} b"] == read_templates(["a {}", "{} b"])
    file.write_text("a {}\nb\n")
    with pytest.raises(UserError, match="the template 'b'"):
        read_templates(str(file))
    for data in ("cat".encode("utf-16"), b"c\xff", "cat".encode("utf-16-le")):
        file.write_bytes(data)
        with pytest.raises(UserError, match="is not UTF-8 text"):
            read_lines(file)


def test_lists_that_are_too_long_are_refused_before_they_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "names"
    with file.open("wb") as opened:
        opened.truncate(2**40)  # holes, which take nothing of the disk
    with pytest.raises(UserError, match="names has 1,099,511,627,776 bytes; the limit is list_bytes=16777216;"):
        read_classes(str(file))
    monkeypatch.setenv("MMSSL_LIMITS", "prompts=6")
    words: Any = Words()
    assert embedded_prompts(words, ["a", "b", "c"], ["{}", "a {}"], space="clip").shape == (2, 3, 3)
    with pytest.raises(UserError, match="4 classes in 2 templates are 8 prompts; the limit is prompts=6;"):
        embedded_prompts(words, ["a", "b", "c", "d"], ["{}", "a {}"], space="clip")
    assert len(words.asked) == 1


def test_many_classes_are_checked_at_once() -> None:
    began, many = time.process_time(), [f"class {number}" for number in range(40_000)]
    assert check_classes(many) == many
    assert time.process_time() - began < 5  # each against each takes half a minute


def test_lists_are_read_from_cards() -> None:
    assert read_classes("bounce.size") == ["small", "medium", "large"]
    assert read_classes("cifar10.label")[:3] == ["airplane", "automobile", "bird"]
    for given, read, told in (
        ("names.txt", read_classes, "there is no classes file 'names.txt'"),
        ("a/b", read_classes, "there is no classes file 'a/b'"),
        ("a/b", read_templates, "there is no templates file 'a/b'"),
        ("bounse.shape", read_classes, "classes is 'bounse.shape': no such file, .* did you mean 'bounce'"),
        ("bounse", read_templates, "templates is 'bounse': no such file, set, and .* did you mean 'bounce'"),
        ("foto", read_templates, "templates is 'foto': no such file, set, and .* did you mean 'photo'"),
        ("bounce.shap", read_classes, "the card of bounce has no list 'shap'; did you mean 'shape'"),
        ("bounce", read_classes, "the card of bounce has no list ''"),
    ):
        with pytest.raises(UserError, match=told):
            read(given)
