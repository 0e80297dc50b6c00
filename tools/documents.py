"""Whole documents of every kind that mmssl reads, and what reads each: for garble.py."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mmssl import checkpoint, create_encoder, judge, log, names, recipe, save_encoder
from mmssl.data import journal
from mmssl.data.rows_of_shards import rows_of_shards
from mmssl.data.shards import Source
from mmssl.data.writer import build_from, show, verify
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.source import Examples
from mmssl.nn.head import Cells, Projection
from mmssl.state import State

RECIPES = ["cross_modal/five", "cross_modal/clip_emoji", "cross_modal/avid_bounce", "cross_modal/pointcontrast_bounce"]
RECIPES += ["image/dino_cifar10", "image/deepcluster", "video/mae_bounce", "audio/simclr_digits"]
SMALL = {"image_size": 16, "widths": [8, 8], "depths": [1, 1], "stem_stride": 1}
TINY = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "convnet": SMALL,
    "vit": TINY,
    "transformer": {"width": 16, "depth": 1, "heads": 2, "vocab_size": 300},
    "pointnet": {"widths": [8], "features": ["color"]},
    "sparse_unet": {"planes": [8, 8], "layers": [1, 1]},
    "spectrogram": {"seconds": 0.2, "backbone": {"name": "convnet", "in_channels": 1, **SMALL}},
    "frames": {"frames": 2, "image": {"name": "convnet", **SMALL}},
    "lab": {"part": "color", "image": {"name": "convnet", **SMALL}},
    "video_vit:tiny": {"image_size": 32, "frames": 4},
    "raw:audio": {},
}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "n": 10}


@dataclass(frozen=True)
class Reader:
    """make: fills a folder with whole cases, a folder each. file: the document of a case. read: reads a case.

    load, dump: the document's values, from and to bytes.
    """

    make: Callable[[Path], None]
    file: str
    read: Callable[[Path], Any]
    load: Callable[[bytes], Any] = json.loads
    dump: Callable[[Any], bytes] = lambda value: json.dumps(value, indent=1).encode()


def numbered(number: int) -> dict[str, bytes]:
    if number == 5:
        raise DamagedError("cannot be made", "5")
    return {"txt": b"a text", "cls": str(number % 2).encode()}


def make_sets(folder: Path) -> None:
    build_from(numbered, 8, folder / "named", shard_samples=3, workers=1, classes=["cat", "dog"], description="Pets.")
    build_from(numbered, 4, folder / "plain", shard_samples=2, workers=1)


def read_set(case: Path) -> None:
    """Asks all that reads an index.json; what one refuses the others are still asked."""
    asked: list[Callable[[], Any]] = [
        lambda: [source := Source(shards=str(case)), source.count, source.broken, source.check({"text"})],
        lambda: list(Source(shards=str(case / "*.tar")).samples({"text"})),
        lambda: list(Examples(shards=str(case / "*.tar")).samples({"label"})),
        lambda: rows_of_shards(str(case)),
        lambda: verify(case),
        lambda: show(case),
    ]
    refused = [error for ask in asked if (error := _refusal(ask))]
    if refused:
        raise refused[0]


def _refusal(ask: Callable[[], Any]) -> UserError | None:
    try:
        ask()
    except UserError as error:
        return error
    return None


def make_encoders(folder: Path) -> None:
    for name, options in ENCODERS.items():
        encoder = create_encoder(name, **options)
        encoder.spaces["clip"] = Projection(encoder.dim, out=8, hidden=(12,))
        encoder.spaces["cells"] = Cells(encoder.dim, out=4)
        save_encoder(encoder, folder / name.replace(":", "_"))


def make_recipes(folder: Path) -> None:
    for number, name in enumerate(RECIPES):
        (folder / str(number)).mkdir()
        shutil.copy(recipe.find(name), folder / str(number) / "recipe.yaml")


def make_cards(folder: Path) -> None:
    shutil.copytree(
        names.home("datasets"), folder, dirs_exist_ok=True, ignore=lambda _, files: {"prepare.py"} & {*files}
    )


def read_card(case: Path) -> None:
    home, names.home = names.home, lambda room: case.parent
    try:
        names.read_card(case.name)
    finally:
        names.home = home


def make_results(folder: Path) -> None:
    scores = {"knn/k1": FIGURE, "linear/top1": {**FIGURE, "trivial": 0.2}}
    remarks = {"left_out": {"knn": {"damaged image": 3}}, "warnings": {"knn": ["few"]}}
    values = {"recipe": "x", "seed": 0, "samples": 9, **remarks, "protocols": {"knn": {"k": [1]}}, "scores": scores}
    (folder / "run").mkdir()
    (folder / "run" / "results.json").write_text(json.dumps(values))


def make_metrics(folder: Path) -> None:
    (folder / "run").mkdir()
    lines = [{"step": step, "loss": 0.5, "lr": None} for step in range(4)]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_builds(folder: Path) -> None:
    """Two finished shards of three, as a build leaves them that is stopped."""
    plan = journal.BuildPlan([range(i, i + 2) for i in (0, 2, 4)], numbered, {"description": ""})
    index = build_from(numbered, 6, folder / "build", shard_samples=2, workers=1)
    (folder / "build" / "index.json").unlink()
    (folder / "build" / "00002.tar").unlink()
    notes = [[number, {**entry, "damaged": {}, "labels": {}}] for number, entry in enumerate(index["shards"][:2])]
    lines = [plan.digest(), *notes]
    (folder / "build" / "build.journal").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_build(case: Path) -> None:
    """Goes on with the build, in a copy; no finished shard may change."""
    with tempfile.TemporaryDirectory() as home:
        copied = shutil.copytree(case, Path(home) / "build")
        before = {path.name: path.read_bytes() for path in copied.glob("*.tar")}
        try:
            build_from(numbered, 6, copied, shard_samples=2, workers=1)
        finally:
            for name, data in before.items():
                assert (copied / name).read_bytes() == data, f"{name} was overwritten"


def make_states(folder: Path) -> None:
    counts = {"drawn": 9, "damaged": {"cut": {"00000.tar": 1}}, "notes": {}}
    place = {"epoch": 0, "base": 0, "batches": 2, "draws": [9], "batch": 4, "world": 1, "workers": 1, "report": counts}
    layer = torch.nn.Linear(2, 2)
    state = {
        "step": 3,
        "model": layer.state_dict(),
        "optimizer": torch.optim.AdamW(layer.parameters()).state_dict(),
        "averaged": None,
        "bad_steps": torch.zeros(()),
        "streams": [{"clip": place}],
        "random": [checkpoint.random_state()],
    }
    checkpoint.save_state(folder / "run", 3, state, keep=1)


def read_state(case: Path) -> None:
    checkpoint.load_state(case, schema=State)


def _lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


def _as_lines(values: Any) -> bytes:
    return b"".join(json.dumps(v).encode() + b"\n" for v in (values if isinstance(values, list) else [values]))


def _as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def _as_state(value: Any) -> bytes:
    torch.save(value, stream := io.BytesIO())
    return stream.getvalue()


def _state(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


READERS = {
    "index": Reader(make_sets, "index.json", read_set),
    "config": Reader(make_encoders, "config.json", checkpoint.load_encoder),
    "recipe": Reader(
        make_recipes,
        "recipe.yaml",
        lambda case: recipe.load(case / "recipe.yaml", trust_code=False).dump(),
        yaml.safe_load,
        _as_yaml,
    ),
    "card": Reader(make_cards, "card.yaml", read_card, yaml.safe_load, _as_yaml),
    "results": Reader(make_results, "results.json", lambda case: judge.table(judge.read_scores(case))),
    "metrics": Reader(
        make_metrics, "metrics.jsonl", lambda case: log._lines(case / "metrics.jsonl"), _lines, _as_lines
    ),
    "journal": Reader(make_builds, "build.journal", read_build, _lines, _as_lines),
    "state": Reader(make_states, "step_3/state.pt", read_state, _state, _as_state),
}
