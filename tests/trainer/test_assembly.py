"""How a recipe's parts are built and joined, and where each stream of batches stands."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear.model import Fit, Row, RowPreprocess, Shown
from linear.plain import made
from torch import Tensor, nn

from mmssl import assembly, create_encoder, dist, recipe
from mmssl.checkpoint import save_encoder
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.types import Batch, Features

CPU = torch.device("cpu")


def stream(rows: Path, resume: dict[str, Any] | None = None, *, rank: int = 0, **options: Any) -> assembly.TaskStream:
    """A stream of three batches an epoch."""
    view = Shown({"row": RowPreprocess()}, **{"noise": 0.5, **options})
    source = Source(shards=str(rows))
    loader = Loader(source, view, batch=8 // (1 + rank), seed=3, workers=0, rank=rank, world=1 + rank)
    return assembly.TaskStream(loader, view, resume)


def rows_of(batch: Batch) -> torch.Tensor:
    return batch.views["row"][0]


def test_a_stream_goes_on_without_end_and_tells_where_passes_begin(rows: Path) -> None:
    endless, began = stream(rows), []
    for _ in range(8):
        endless.next(CPU)
        began.append(endless.begins)
        endless.begins = False
    assert began == [True, False, False, True, False, False, True, False]
    assert endless.loader.place == (2, 0, 2)
    endless.next(CPU), endless.next(CPU), endless.next(CPU)
    assert endless.begins, "until somebody says that it was seen"


def test_the_view_sees_progress_before_it_changes_the_batch(rows: Path) -> None:
    shown = stream(rows)
    assert shown.next(CPU).extra["progress"].unique().tolist() == [0.0]
    assert shown.next(CPU, progress=0.25).extra["progress"].unique().tolist() == [0.25]


@pytest.mark.parametrize("done", [2, 3, 4])
def test_what_the_view_draws_depends_on_the_place_in_the_run_alone(done: int, rows: Path) -> None:
    first = stream(rows)
    whole = [rows_of(first.next(CPU, progress=0.5)) for _ in range(7)]
    part = stream(rows)
    for _ in range(done):
        torch.rand(17), random.random(), np.random.rand()
        part.next(CPU, progress=0.5)
    state = part.loader.state()
    torch.manual_seed(77)
    rest = stream(rows, state)
    for expected in whole[done:]:
        assert torch.equal(rows_of(rest.next(CPU, progress=0.5)), expected)
    drawn = stream(rows)
    again = [rows_of(drawn.next(CPU)) for _ in range(7)]
    assert not any(torch.equal(a, b) for a, b in zip(whole, again, strict=True)), "noise grows with progress"
    noise = [a - b for a, b in zip(whole, again, strict=True)]
    assert not any(torch.equal(noise[0], other) for other in noise[1:]), "each batch draws its own"
    halves = [(rows_of(s.next(CPU, progress=p)) for s in [stream(rows, rank=1)]) for p in (0.5, 0.0)]
    other = next(halves[0]) - next(halves[1])
    assert not torch.equal(other, noise[0][:4]), "so does each rank"


def test_drawing_for_a_batch_leaves_the_random_state(rows: Path) -> None:
    before = torch.get_rng_state()
    stream(rows).next(CPU, progress=1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sweep_shows_a_processs_share_in_order(rows: Path) -> None:
    assert torch.cat([b.extra["index"] for b in stream(rows).sweep(CPU)]).tolist() == list(range(24))
    second = stream(rows, rank=1)
    assert torch.cat([b.extra["index"] for b in second.sweep(CPU)]).tolist() == list(range(1, 24, 2))
    assert [len(b.extra["index"]) for b in second.sweep(CPU)] == [4, 4, 4]


def test_the_rest_goes_on_where_the_stream_is(rows: Path) -> None:
    whole, part = stream(rows), stream(rows)
    expected = [rows_of(whole.next(CPU)) for _ in range(5)]
    rest = part.rest(CPU)
    found = [rows_of(next(rest)) for _ in range(4)] + [rows_of(part.next(CPU))]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def built(tree: dict[str, Any], folder: Path, resume: dict[str, Any] | None = None) -> Any:
    return assembly.assemble(recipe.check(tree), folder, device=CPU, resume=resume)


def test_the_seed_makes_weights_and_order(rows: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    (a, first), (b, second), (c, third) = (built(made(rows, train={"seed": seed}), tmp_path) for seed in (4, 4, 5))
    weights = [m.encoders["row"].layer.weight for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    shown = [rows_of(s["fit"].next(CPU)) for s in (first, second, third)]
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])


def test_loaders_are_given_what_the_run_decides(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = made(rows, tasks={"fit": {"batch": 12}}, train={"accumulate": 3, "seed": 6})
    tree["tasks"]["fit"]["data"] |= {"max_damaged": 0.5}
    loader = built(tree, tmp_path)[1]["fit"].loader
    assert (loader.batch, loader.seed, loader.rank, loader.world, loader.max_damaged) == (4, 6, 0, 1, 0.5)
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    monkeypatch.setattr(dist, "gather_objects", lambda value: [value, value])
    loader = built(tree, tmp_path)[1]["fit"].loader
    assert (loader.batch, loader.rank, loader.world) == (2, 1, 2)
    tree["tasks"]["fit"]["batch"] = 9
    with pytest.raises(UserError, match=r"^tasks\.fit: batch is 9; expected a multiple of .* = 6$"):
        built(tree, tmp_path)


def test_objectives_reserve_as_much_as_there_are_samples(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(assembly, "reserve", lambda *given: asked.append(given))
    model, streams = built(made(rows, tasks={"fit": {"weight": 0.25}, "more": {}}), tmp_path)
    assert asked == [(model.objectives["fit"], 24), (model.objectives["more"], 24)]
    assert model.weights == {"fit": 0.25, "more": 1.0}
    assert list(streams) == ["fit", "more"]


def test_a_view_is_checked_before_the_run(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Shown) -> None:
        raise UserError(f"noise of {self.noise} leaves nothing")

    monkeypatch.setattr(Shown, "check", refuse)
    with pytest.raises(UserError, match=r"^tasks\.fit: noise of 0\.75 leaves nothing$"):
        built(made(rows, tasks={"fit": {"view": {"noise": 0.75}}}), tmp_path)


class Tokens(Row):
    """Learns from rows what its preprocessing needs: how many there are, and the first."""

    learns_preprocess = True  # type: ignore[assignment]

    def learn_preprocess(self, raws: Iterator[Any]) -> None:
        self.raws = list(raws)

    def load_files(self, folder: Path) -> None:
        self.loaded = folder


def test_preprocessing_is_learnt_from_the_first_task_that_uses_it(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import linear.model

    monkeypatch.setattr(linear.model, "encoder", Tokens)
    model, streams = built(made(rows, tasks={"fit": {}, "more": {}}), tmp_path)
    learnt = model.encoders["row"].raws
    expected = np.random.default_rng(0).normal(size=(24, 3))
    assert np.array_equal(np.stack(learnt), expected), "in order, as they are"
    monkeypatch.setattr(assembly, "LEARN_FROM", 5)
    assert len(built(made(rows), tmp_path)[0].encoders["row"].raws) == 5
    streams["fit"].next(CPU)
    states = {key: s.loader.state() for key, s in streams.items()}
    again = built(made(rows), tmp_path, states)[0].encoders["row"]
    assert again.loaded == tmp_path / "encoders" / "row" and not hasattr(again, "raws")
    assert assembly.LEARN_FROM == 5


def test_so_many_inputs_are_learnt_from_at_most() -> None:
    assert assembly.LEARN_FROM == 100_000


def test_nothing_is_learnt_where_no_task_uses_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Tokens()
    objective = Fit({"row": Row()})
    objective.uses = ("other",)
    assembly._learn_preprocess(encoder, "row", {"fit": objective}, {})
    assert not hasattr(encoder, "raws")
    samples = [{"row": 1}, {"label": 3}, {"row": 2}]

    class Has:
        def samples(self, wanted: set[str]) -> Iterator[dict[str, int]]:
            assert wanted == {"row"}
            return iter(samples)

    other = Fit({"row": Row()})
    assembly._learn_preprocess(encoder, "row", {"no": objective, "fit": other}, {"fit": Has()})  # type: ignore[dict-item]
    assert encoder.raws == [1, 2]
    encoder.preprocess.field, samples = "other", [{"row": 1, "other": 8}, {"other": 9}]
    monkeypatch.setattr(Has, "samples", lambda self, wanted: iter(samples if wanted == {"other"} else []))
    assembly._learn_preprocess(encoder, "row", {"fit": other}, {"fit": Has()})  # type: ignore[dict-item]
    assert encoder.raws == [8, 9], "of the field that it reads"


def test_weights_to_start_from(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import linear.model

    monkeypatch.setattr(linear.model, "encoder", Tokens)
    torch.manual_seed(5)
    trained = Tokens()
    trained.name, trained.options = "linear.model:encoder", {}
    save_encoder(trained, tmp_path / "trained")
    tree = made(rows, train={"start": {"row": str(tmp_path / "trained")}})
    model, streams = built(tree, tmp_path)
    assert torch.equal(model.encoders["row"].layer.weight, trained.layer.weight)
    assert model.encoders["row"].loaded == tmp_path / "trained"
    streams["fit"].next(CPU)
    resumed = built(tree, tmp_path, {"fit": streams["fit"].loader.state()})[0]
    assert not torch.equal(resumed.encoders["row"].layer.weight, trained.layer.weight), "the checkpoint has them"
    tree["train"]["start"]["row"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^train\.start\.row: there are no weights at"):
        built(tree, tmp_path)


def test_what_is_frozen_does_not_train(rows: Path, tmp_path: Path) -> None:
    for frozen in (["row"], []):
        encoder = built(made(rows, train={"freeze": frozen}), tmp_path)[0].encoders["row"]
        assert encoder.training == (not frozen)
        assert [p.requires_grad for p in encoder.parameters()] == [not frozen] * 3


class Stack(Row):
    """A row encoder with a stack of two blocks in front."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__(dropout=dropout)
        self.stack = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2))).double()

    def forward(self, x: Tensor) -> Features:
        return super().forward(self.stack(x))


@pytest.mark.parametrize("asked", [True, ["row"], False, []])
def test_blocks_are_computed_again_where_that_is_asked_for(
    asked: bool | list[str], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import linear.model

    tree = made(rows, train={"checkpointing": asked})
    if asked:
        with pytest.raises(UserError, match=r"^train\.checkpointing: row has no blocks, as transformers and residual"):
            built(tree, tmp_path)
    monkeypatch.setattr(linear.model, "encoder", Stack)
    encoder = built(tree, tmp_path)[0].encoders["row"]
    assert ["forward" in vars(block) for block in encoder.stack] == [bool(asked)] * 2


def test_a_second_encoder_of_a_modality_has_a_longer_key() -> None:
    node = {"name": "linear.model:encoder", "dropout": 0.25}
    assert assembly.build_encoder("row_b", node).dropout.p == 0.25
    with pytest.raises(
        UserError, match=r"^encoders\.rows: 'linear.model:encoder' reads row; list it under 'row', or say"
    ):
        assembly.build_encoder("rows", node)
    with pytest.raises(UserError, match=r"^encoders\.row: Row has no option 'drop'"):
        assembly.build_encoder("row", {"name": "linear.model:encoder", "drop": 1})


def test_an_objective_needs_its_encoders(rows: Path) -> None:
    checked = recipe.check(made(rows, tasks={"fit": {"objective": {"take": 3}}}))
    assert assembly.build_objective(checked, "fit", {"row": Row()}).take == 3
    with pytest.raises(UserError, match=r"^tasks\.fit needs an encoder for 'row'; the run has image, text$"):
        assembly.build_objective(checked, "fit", {"image": Row(), "text": Row()})


@pytest.mark.parametrize("by_recipe", [False, True])
def test_an_encoder_that_an_objective_freezes_needs_weights(
    by_recipe: bool, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Fit.__init__

    def freeze(self: Fit, encoders: Any, **options: Any) -> None:
        start(self, encoders, **options)
        encoders["row"].requires_grad_(False)

    monkeypatch.setattr(Fit, "__init__", freeze)
    tree = made(rows, tasks={"more": {}, "fit": {}}, train={"freeze": ["row"] if by_recipe else []})
    with pytest.raises(UserError, match=r"tasks\.more learns from row and does not train it; set train\.start\.row to"):
        built(tree, tmp_path)
    save_encoder(create_encoder("linear.model:encoder"), tmp_path / "row")
    started = copy.deepcopy(tree)
    started["train"]["start"] = {"row": str(tmp_path / "row")}
    assert not built(started, tmp_path)[0].encoders["row"].layer.weight.requires_grad
    monkeypatch.setattr(Row, "fetches", classmethod(lambda cls, options: f"weights of {options['dropout']}"))
    tree["encoders"]["row"]["dropout"] = 0.1
    assert not built(tree, tmp_path)[0].encoders["row"].layer.weight.requires_grad, "published ones are no random ones"


def test_pretexts_know_their_views(rows: Path) -> None:
    checked = recipe.check(made(rows, tasks={"fit": {"view": {"noise": 0.5}}}))
    objective = Fit({"row": Row()})
    (pretext,) = assembly.pretexts(checked, {"fit": objective}).values()
    assert (pretext.objective, pretext.view, pretext.options) == (objective, Shown, {"noise": 0.5})


def seen_by(monkeypatch: pytest.MonkeyPatch, told: list[Any]) -> None:
    """Lets two processes gather what each has: first what it found, then the lists of shards."""
    answers = iter([[("", 1), ("", 2)], told])
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "gather_objects", lambda value: next(answers))


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (
            [("a", 3), ("b", None)],
            [("a", 3)],
            "2 on rank 0 and 1 on rank 1: rank 0 alone has b; every machine needs the same set",
        ),
        (
            [("a", 3)],
            [("a", 4)],
            "1 on rank 0 and 1 on rank 1: rank 0 alone has a (3 samples); rank 1 alone has a (4 samples); every",
        ),
        ([("a", 3), ("b", 3)], [("b", 3), ("a", 3)], "2 on rank 0 and 2 on rank 1: they are listed in another order; "),
        (
            [(str(n), 1) for n in range(7)],
            [],
            "rank 0 alone has 0 (1 samples), 1 (1 samples), 2 (1 samples), 3 (1 samples), 4 (1 samples) and 2 more; ",
        ),
        ([(str(n), None) for n in range(5)], [], "rank 0 alone has 0, 1, 2, 3, 4; every"),
    ],
)
def test_processes_that_see_other_shards_are_told_which(
    mine: list[Any], theirs: list[Any], said: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = recipe.check(made(rows))
    same = [("x", 1)]
    seen_by(monkeypatch, [{"other": same, "fit": mine}, {"other": same, "fit": theirs}])
    with pytest.raises(UserError) as caught:
        assembly._same_everywhere(checked)
    assert str(caught.value).startswith("tasks.fit: ranks see different shards, ") and said in str(caught.value)


def test_a_set_that_cannot_be_opened(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = made(rows)
    tree["tasks"]["fit"]["data"]["shards"] = str(rows / "none-*.tar")
    checked = recipe.check(tree)
    with pytest.raises(UserError, match=r"^there is no shard"):
        assembly._same_everywhere(checked)
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "gather_objects", lambda value: [("", 1), value])
    with pytest.raises(UserError, match=r"^rank 1: there is no shard"):
        assembly._same_everywhere(checked)


def test_shards_are_known_by_name_and_number_of_samples(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(assembly, "seed_of", lambda text: asked.append(text) or 1)
    found = assembly._same_everywhere(recipe.check(made(rows)))
    assert asked == [repr({"fit": [("part-0.tar", 12), ("part-1.tar", 12)]})]
    assert found["fit"].count == 24
    monkeypatch.setattr(Source, "counts", None)
    assembly._same_everywhere(recipe.check(made(rows)))
    assert asked[1] == repr({"fit": [("part-0.tar", None), ("part-1.tar", None)]})
