"""Tokenizers that harm the process which opens them, as what they are: one line, while this process goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mmssl import create_encoder, load_encoder, save_encoder, trial
from mmssl.encoders import bpe
from mmssl.errors import UserError
from mmssl.limits import VARIABLE

OURS: dict[str, Any] = json.loads(bpe.byte_tokenizer().to_str())
BPE = OURS["model"]
A = {"Sequence": {"id": "A", "type_id": 0}}


def template(*parts: Any, **special: int) -> dict[str, Any]:
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in special.items()}
    return {"post_processor": {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": tokens}}


def token(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def split(regex: str) -> dict[str, Any]:
    pattern = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": pattern}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a template that names no token": (template(token("x"), A), "no entry found"),
    "a template of another sequence": (template({"Sequence": {"id": "B", "type_id": 0}}), "index out of bounds"),
    "more special tokens than fit": (template(*[token("x")] * 100, A, x=1), "101 tokens where a text is cut to 64"),
    "tokens without embedding": (template(token("x"), A, x=300), "has the token 300, but the network knows 258"),
    "a vocabulary without embedding": ({"model": {**BPE, "vocab": {**BPE["vocab"], "zz": 258}}}, "the token 258"),
    "a regex that is none": (split("("), "unmatched parenthesis"),
    "a regex that backtracks": (split("(a|aa)+$b"), "retry-limit"),
    "chunks of nothing": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "non-zero"),
    "a map of characters": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAAA"}},
        "bound",
    ),
    "a map that aborts": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "ends the process",
    ),
    "a text that grows": (
        {"normalizer": {"type": "Sequence", "normalizers": [replace("a", "a" * 1000)] * 5}},
        "ends the process|takes more than",
    ),
    "a rare word that grows": (
        {"normalizer": {"type": "Sequence", "normalizers": [replace("zq", "zqzq" * 250)] * 5}},
        "ends the process|takes more than",
    ),
    "merges of no token": ({"model": {**BPE, "merges": [["q", "w"]]}}, "out of vocabulary"),
    "merges shorter than their prefix": (
        {"model": {**BPE, "continuing_subword_prefix": "x" * 20, "merges": [["a", "b"]]}},
        "out of range",
    ),
    "numbers for all tokens there could be": (
        {"model": {**BPE, "vocab": {**BPE["vocab"], "zz": 4_000_000_000}}},
        "ends the process|takes more than|the token 4000000000",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=258)
    save_encoder(encoder, tmp_path / "text")
    return tmp_path / "text"


def write(folder: Path, change: dict[str, Any]) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({**OURS, **change}))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizers_end_in_one_line(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tokenizer_memory=1e9,tokenizer_seconds=20")
    change, message = HOSTILE[name]
    write(folder, change)
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(folder)
    assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_limit_of_time_and_of_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}})
    monkeypatch.setenv(VARIABLE, "tokenizer_seconds=1")
    with pytest.raises(UserError, match=r"takes more than 1 s over a few texts; the limit is tokenizer_seconds=1"):
        load_encoder(folder)
    monkeypatch.setenv(VARIABLE, "tokenizer_bytes=1000")
    with pytest.raises(UserError, match="tokenizer.json has .* bytes; the limit is tokenizer_bytes=1000"):
        load_encoder(folder)


def test_what_we_wrote_needs_no_trial_and_other_tokenizers_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    apart = trial.apart
    monkeypatch.setattr(trial, "apart", lambda *a: tried.append(a[-1]) or apart(*a))
    monkeypatch.setattr(trial, "_passed", set())
    load_encoder(folder)
    encoder = create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280, lowercase=True)
    encoder.learn_preprocess(["a red ball rolls over a blue ball"] * 9)
    save_encoder(encoder, folder)
    expected = encoder.eval().encode(["A red ball"])
    assert (load_encoder(folder).encode(["A red ball"]) == expected).all() and not tried
    write(folder, {"decoder": None})
    load_encoder(folder)
    assert tried == [str(folder / "tokenizer.json")]
    load_encoder(folder)
    assert len(tried) == 1, "once for each content"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**BPE, "vocab": {**BPE["vocab"], "zz": 258}}},
        {"model": {**BPE, "vocab": {key: value for key, value in BPE["vocab"].items() if value != 9}}},
        {"model": {**BPE, "merges": [["a", "b"]]}},
        {"model": {**BPE, "merges": ["a b"]}},
        {"model": {**BPE, "dropout": 0.5}},
        {"model": {**BPE, "vocab": []}},
        {"added_tokens": OURS["added_tokens"][:1]},
        {"decoder": None},
        {"further": 1},
        split("a"),
        template(A),
    ],
)
def test_only_ours_is_trusted(change: dict[str, Any]) -> None:
    assert bpe._is_ours(json.dumps({**OURS, "padding": {"pad_id": 5}}), 258)
    assert not bpe._is_ours(json.dumps({**OURS, **change}), 258)
    assert not bpe._is_ours("[" * 100_000, 258) and not bpe._is_ours("{}", 258) and not bpe._is_ours("", 258)


def test_padding_and_truncation_of_a_file_do_not_count(folder: Path) -> None:
    padding = {"strategy": {"Fixed": 1_000_000_000}, "direction": "Left", "pad_to_multiple_of": 1_000_000_000}
    cut = {"direction": "Left", "max_length": 3, "strategy": "OnlySecond", "stride": 2}
    write(folder, {"padding": {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}, "truncation": cut})
    preprocess = load_encoder(folder).preprocess
    made = preprocess.collate(["abc", "a", "abcdef" * 100])
    assert made.values.shape == (3, 64) and made.lengths[1:].tolist() == [2, 64]
    assert made.values[1].tolist() == [BPE["vocab"]["a"], 1] + [0] * 62


def test_a_panic_while_encoding_is_a_user_error_and_no_token_is_one_of_padding(folder: Path) -> None:
    from tokenizers import Tokenizer

    preprocess = load_encoder(folder).preprocess
    preprocess.tokenizer = Tokenizer.from_str(json.dumps({**OURS, **split("(a|aa)+$b")}))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="text: its tokenizer does not work"):
        preprocess.collate(["a" * 10_000])
    preprocess.tokenizer = Tokenizer.from_str(json.dumps({**OURS, **template(A)}))  # type: ignore[attr-defined]
    made = preprocess.collate(["", ""])
    assert made.values.tolist() == [[0], [0]] and made.lengths.tolist() == [1, 1]


def test_other_errors_are_no_panic() -> None:
    with pytest.raises(KeyboardInterrupt), trial.panicking("here"):
        raise KeyboardInterrupt


def test_the_trial_imports_nothing_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tokenizers", "json", "mmssl", "hashlib"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    trial.try_tokenizer(json.dumps(OURS), "here", length=7)
    assert not (tmp_path / "marker").exists()
