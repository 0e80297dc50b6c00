"""Images of a run: whose options they take, what they run in, and the files that they become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mmssl import plot as room
from mmssl.errors import UserError
from mmssl.plot import plot

Drawn = Image.Image | list[Image.Image]
SEEN: dict[str, Any] = {}
STILL = Image.new("RGB", (4, 3), "red")
FRAMES = [Image.new("RGB", (4, 3), color) for color in ("red", "green", "blue")]


def picture(trained: Any, *, data: dict[str, str], count: int = 2, size: float = 1.0) -> Iterator[tuple[str, Drawn]]:
    SEEN.update(trained=trained, data=data, count=count, size=size, random=float(torch.rand(())))
    SEEN.update(training=[*(e.training for e in trained.encoders.values()), trained.tasks["t"].objective.training])
    SEEN.update(grad=torch.is_grad_enabled())
    yield "still.v1", STILL
    yield "moving", FRAMES


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = SimpleNamespace(
        evals={
            "other": {"name": "other", "data": {"shards": "wrong"}},
            "mine": {"name": "kind", "data": {"shards": "right"}, "count": 5, "every": 100},
        }
    )
    trained = SimpleNamespace(
        encoders={"image": torch.nn.Dropout()}, tasks={"t": SimpleNamespace(objective=torch.nn.Dropout())}
    )
    SEEN.clear()
    SEEN["asked"] = []
    (tmp_path / "recipe.yaml").touch()

    def resolve(*names: str) -> tuple[Any, None]:
        SEEN["asked"].append(names)
        return picture, None

    def load(path: Path, **how: Any) -> Any:
        SEEN["asked"].append((path, how))
        return made

    def load_run(path: Path, **how: Any) -> Any:
        SEEN["asked"].append((path, how))
        return trained

    monkeypatch.setattr(room.names, "resolve", resolve)
    monkeypatch.setattr(room.recipe, "load", load)
    monkeypatch.setattr(room, "load_run", load_run)
    return tmp_path


def test_files_and_where_options_come_from(run: Path) -> None:
    state = torch.get_rng_state()
    paths = plot(run, "kind", ["size=2"])
    assert paths == [run / "plots" / "kind" / "still.v1.png", run / "plots" / "kind" / "moving.gif"]
    assert SEEN["asked"] == [
        ("plots", "kind"),
        (run, {"trust_code": False}),
        (run / "recipe.yaml", {"trust_code": False}),
        ("evals", "kind"),
    ]
    assert (SEEN["data"], SEEN["count"], SEEN["size"]) == ({"shards": "right"}, 5, 2.0)
    assert SEEN["training"] == [False, False]
    assert not SEEN["grad"]
    assert torch.get_rng_state().equal(state), "a run that goes on draws as before"
    assert all(m.training for m in (*SEEN["trained"].encoders.values(), SEEN["trained"].tasks["t"].objective))
    with Image.open(paths[0]) as still, Image.open(paths[1]) as moving:
        assert still.tobytes() == STILL.tobytes()
        assert moving.n_frames == 3  # type: ignore[attr-defined]
        assert moving.info["duration"] == 120
        assert moving.info["loop"] == 0


def test_another_folder_and_trusted_code(run: Path) -> None:
    paths = plot(run, "kind", ["count=7"], out=run / "a" / "b", trust_code=True)
    assert [path.parent for path in paths] == [run / "a" / "b"] * 2
    assert SEEN["count"] == 7
    assert [how for _, how in SEEN["asked"][1:3]] == [{"trust_code": True}] * 2
    assert plot(run, "kind", out=run / "a" / "b") == paths, "again, in the same folder"


def test_what_the_evaluation_leaves_open_is_as_it_was_judged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(*, data: Any, count: int = 9, size: float = 3.0, other: int = 1) -> None: ...

    monkeypatch.setattr(room.names, "resolve", lambda where, _: (judged if where == "evals" else picture, None))
    plot(run, "kind")
    assert (SEEN["count"], SEEN["size"]) == (5, 3.0), "the recipe's count, and the evaluation's own size"
    plot(run, "kind", ["size=2"])
    assert SEEN["size"] == 2.0


def test_an_encoder_by_folder_or_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def alone(trained: Any, *, data: dict[str, str]) -> Iterator[tuple[str, Drawn]]:
        assert not trained.tasks and not trained.encoders["image"].training
        yield "still", STILL

    def opened(path: str, options: Any, **how: Any) -> Any:
        told.append((path, options, how))
        return {"image": torch.nn.Dropout()}

    monkeypatch.setattr(room.names, "resolve", lambda *_: (alone, None))
    monkeypatch.setattr(room, "open_encoders", opened)
    monkeypatch.chdir(tmp_path)
    [path] = plot("timm:vit", "kind", ["data.shards=x", "model.pretrained=false"], trust_code=True)
    assert told == [("timm:vit", {"pretrained": False}, {"trust_code": True})]
    assert path == Path("runs/timm_vit/plots/kind/still.png") and path.is_file()
    with pytest.raises(UserError, match=r"timm:vit is no run to take data from; add data.shards="):
        plot("timm:vit", "kind")
    with pytest.raises(UserError, match=r"says itself what its encoders are; leave model.width out"):
        plot(run, "kind", ["data.shards=x", "model.width=3"])


def test_without_data(run: Path) -> None:
    with pytest.raises(UserError, match=r"has no evaluation 'unknown' to take data from; add data.shards="):
        plot(run, "unknown")
    plot(run, "unknown", ["data.shards=x"])
    assert SEEN["data"] == {"shards": "x"}
    with pytest.raises(UserError, match="kind: picture has no option 'cuont'"):
        plot(run, "kind", ["cuont=3"])
