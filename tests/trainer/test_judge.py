"""Evaluations of a run and after it: which run, what they see, and what results.json says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from linear import model
from linear.model import Peek, Row
from linear.plain import made

from mmssl import cli, dist, loading, recipe, train
from mmssl.errors import UserError
from mmssl.evals.parts.report import warn
from mmssl.judge import Judge, NotJudged, evaluate, load_encoders, load_run, read_scores, table, write_results
from mmssl.types import Score, Trained

PEEK = {"name": "linear.model:evaluation"}
NAMES = ("value", "low", "high", "chance", "n")


@pytest.fixture(scope="module")
def run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two evaluations, of 48 samples."""
    evals = {"first": PEEK, "second": {**PEEK, "at": 1}}
    tree = made(rows, tasks={"fit": {"view": {"noise": 0.5}, "objective": {"take": 1}}}, evals=evals, train={"seed": 3})
    return train(tree, out=tmp_path_factory.mktemp("judged") / "run", progress=False)


def test_evaluations_are_built_at_once(rows: Path) -> None:
    judge = Judge({"a": {**PEEK, "at": 2, "every": 5}, "b": PEEK})
    assert judge.every == {"a": 5, "b": None}
    assert [type(e) for e in judge.evaluations.values()] == [Peek, Peek] and judge.evaluations["a"].at == 2
    with pytest.raises(UserError, match="'linear.model:encoder' is none of the evals; expected a .*Evaluation"):
        Judge({"a": {"name": "linear.model:encoder"}})
    with pytest.raises(UserError, match="evals.a: Peek has no option 'ta'"):
        Judge({"a": {**PEEK, "ta": 1}})
    sets = {side: {"shards": str(rows)} for side in ("train", "data")}
    with pytest.raises(UserError, match="evals.knn: .*label"):  # found by its key
        Judge({"knn": sets}).check(Trained({"row": Row()}))


def test_checking_names_the_first_that_lacks_something(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    judge = Judge({"a": PEEK, "b": {**PEEK, "fail": "check"}})
    trained = Trained({"row": Row()})
    judge.check(trained, ["a"])
    with pytest.raises(UserError, match=r"^evals\.b: nothing fits$"):
        judge.check(trained)
    monkeypatch.setattr(Peek, "check", lambda self, trained: warn("few samples"))
    judge.check(trained, ["a"])
    assert capsys.readouterr().out == "evals.a: few samples\n"


def test_one_that_fails_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    judge = Judge({"a": {**PEEK, "fail": "run"}, "b": PEEK, "c": {**PEEK, "fail": "crash"}})
    trained = Trained({"row": Row()})
    scores = judge.run(trained)
    assert list(scores) == ["b/weight"]
    assert judge.remarks() == {
        "left_out": {"a": {}, "b": {}, "c": {}},
        "warnings": {
            "a": ["not judged: nothing is there"],
            "b": [],
            "c": ["not judged: ZeroDivisionError: by zero"],
        },
    }
    said = capsys.readouterr()
    assert said.out == "a: not judged: nothing is there\nc: not judged: ZeroDivisionError: by zero\n"
    assert said.err.count("Traceback") == 1 and 'raise ZeroDivisionError("by  zero")' in said.err
    both = "evals.a: nothing is there; evals.c: ZeroDivisionError: by zero"
    with pytest.raises(NotJudged, match=rf"^{both}; the other figures stand in r\.json$") as raised:
        judge.finish(Path("r.json"), scores)
    assert raised.value.scores == scores and raised.value.file == Path("r.json")
    with pytest.raises(NotJudged, match=f"^{both}$"):
        judge.finish(Path("r.json"), {})
    for key in ("a", "c"):
        judge.evaluations[key].fail = ""
    assert list(judge.run(trained, ["a", "c"])) == ["a/weight", "c/weight"]
    judge.finish(Path("r.json"), {})


def test_a_bar_shows_which_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        Judge({"first": PEEK, "second": PEEK}, progress=progress).run(Trained({"row": Row()}))
        said = capsys.readouterr().err
        assert bool(said) == progress and ("second:  50%" in said) == progress and said.count("\n") == 0


def test_a_run_outlives_its_evaluations(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evals = {"bad": {**PEEK, "fail": "crash", "every": 24}, "good": {**PEEK, "every": 24}}
    tree = made(rows, tasks={"fit": {"view": {"noise": 0.5}, "objective": {"take": 1}}}, evals=evals)
    (tmp_path / "r.json").write_text(json.dumps(tree))
    assert cli.main(["train", str(tmp_path / "r.json"), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out.count("bad: not judged: ZeroDivisionError: by zero") == 2, "in between, and at the end"
    assert "good/weight" in said.out.split("95% interval")[1] and f"run folder: {tmp_path / 'run'}" in said.out
    error = f"mmssl: evals.bad: ZeroDivisionError: by zero; the other figures stand in {tmp_path / 'run/results.json'}"
    assert said.err.splitlines()[-1] == error
    assert (tmp_path / "run/data_report.json").is_file() and any((tmp_path / "run/checkpoints").iterdir())
    assert list(read_scores(tmp_path / "run")) == ["good/weight"]
    command = ["eval", str(tmp_path / "run"), "--trust-code", "--quiet"]
    assert cli.main([*command, "--json"]) == 2
    said = capsys.readouterr()
    assert list(json.loads(said.out)["scores"]) == ["good/weight"] and said.err.splitlines()[-1] == error
    assert cli.main([*command, "evals.bad.fail=''"]) == 0 and not capsys.readouterr().err


def test_what_is_judged_is_in_evaluation_mode_and_put_back(rows: Path, tmp_path: Path) -> None:
    encoder = Row(dropout=0.5)
    judge = Judge({"a": PEEK})
    assert judge.run(Trained({"row": encoder}))["a/weight"].chance == 0.0
    assert encoder.training and encoder.dropout.training


def test_objectives_are_in_evaluation_mode_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_run(run, trust_code=True)
    objective = trained.tasks["fit"].objective.train()
    seen: list[bool] = []
    monkeypatch.setattr(Peek, "run", lambda self, trained: seen.append(objective.head.training) or iter(()))
    Judge({"a": PEEK}).run(trained)
    assert seen == [False] and objective.head.training


def test_results_are_read_back(rows: Path, tmp_path: Path) -> None:
    evals = {"a": {**PEEK, "every": 5, "at": 1}, "c": PEEK}
    checked = recipe.check(made(rows, train={"seed": 4}, evals=evals), trust_code=True)
    scores = {"a/b": Score(0.5, 0.4, 0.6, 0.1, 20, parts={"x": 0.25}), "c/d": Score(1.0, 1.0, 1.0, 0.5, 3, trivial=0.7)}
    write_results(tmp_path, checked, scores, samples=77, remarks={"warnings": {"a": []}})
    found = json.loads((tmp_path / "results.json").read_text())
    ran = found.pop("evaluations")
    dates = [each.pop("date") for each in ran.values()]
    assert all(datetime.fromisoformat(date).utcoffset() == timedelta() for date in dates)
    name = PEEK["name"]
    assert ran == {
        "a": {"name": name, "options": {"at": 1}, "samples": 77},
        "c": {"name": name, "options": {}, "samples": 77},
    }
    assert found == {
        "recipe": "rows",
        "seed": 4,
        "samples": 77,
        "left_out": {},
        "warnings": {"a": []},
        "scores": {
            "a/b": {
                "value": 0.5,
                "low": 0.4,
                "high": 0.6,
                "chance": 0.1,
                "n": 20,
                "trivial": None,
                "parts": {"x": 0.25},
            },
            "c/d": {"value": 1.0, "low": 1.0, "high": 1.0, "chance": 0.5, "n": 3, "trivial": 0.7},
        },
    }
    assert read_scores(tmp_path) == scores and read_scores(tmp_path / "none") == {}


def test_a_run_has_the_plain_key_and_what_was_judged_otherwise_stays(rows: Path, tmp_path: Path) -> None:
    for at, value in ((1, 0.1), (2, 0.2), (2, 0.3)):
        checked = recipe.check(made(rows, evals={"a": {**PEEK, "at": at}}), trust_code=True)
        write_results(tmp_path, checked, {"a/b": Score(value, 0, 1, 0, 1)}, samples=9, remarks={"left_out": {"a": {}}})
    assert {key: score.value for key, score in read_scores(tmp_path).items()} == {"a[at=1]/b": 0.1, "a/b": 0.3}
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["left_out"]) == set(found["evaluations"]) == {"a", "a[at=1]"}


def test_judging_by_other_options_stands_beside_also_where_an_older_file_says_nothing(run: Path) -> None:
    file = run / "results.json"
    before, found = read_scores(run), json.loads(file.read_text())
    original = file.read_text()
    del found["evaluations"]
    for text in (original, json.dumps(found)):
        file.write_text(text)
        evaluate(run, ["evals.second.at=2"], evals=["second"], trust_code=True)
        evaluate(run, evals=["second"], trust_code=True)
        after = read_scores(run)
        assert {key: after[key] for key in before} == before and set(after) == {*before, "second[at=2]/weight"}
    file.write_text(original)


def test_the_table() -> None:
    scores = {"a/long": Score(0.5, 0.4, 0.6, 0.1, 20), "c": Score(1.0, 0.9876, 1.0, 0.5, 3)}
    assert table(scores).splitlines() == [
        "        value  95% interval   chance  n",
        "------  -----  -------------  ------  --",
        "a/long  0.500  0.400 - 0.600  0.100   20",
        "c       1.000  0.988 - 1.000  0.500   3",
    ]
    trivial = {**scores, "d": Score(0.1, 0.0, 0.2, 0.5, 1000, trivial=0.75)}
    assert table(trivial).splitlines() == [
        "        value  95% interval   chance  trivial  n",
        "------  -----  -------------  ------  -------  ----",
        "a/long  0.500  0.400 - 0.600  0.100            20",
        "c       1.000  0.988 - 1.000  0.500            3",
        "d       0.100  0.000 - 0.200  0.500   0.750    1000",
    ]


def test_a_saved_run_is_loaded_whole(run: Path) -> None:
    state = torch.load(run / "checkpoints/step_6/state.pt", weights_only=True)["model"]
    trained = load_run(run, trust_code=True)
    assert torch.equal(trained.encoders["row"].layer.weight, state["encoders.row.layer.weight"])
    pretext = trained.tasks["fit"]
    assert torch.equal(pretext.objective.head.weight, state["objectives.fit.head.weight"])
    assert not pretext.objective.training and not trained.encoders["row"].training
    assert pretext.options == {"noise": 0.5} and pretext.view is model.Shown and pretext.objective.take == 1
    for load in (load_run, load_encoders):
        with pytest.raises(UserError, match="trust_code=True"):
            load(run)
    with pytest.raises(UserError, match="trust_code=True"):
        evaluate(run)


def test_objectives_are_built_within_limits(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    plain = file.read_text()
    file.write_text(plain.replace("take: 1", "take: 1000000000"))
    with pytest.raises(UserError, match=r"tasks\.fit: objective\.take is 1,000,000,000; the limit is network_option"):
        load_run(tmp_path / "run", trust_code=True)
    file.write_text(plain)
    with pytest.raises(UserError, match=r"tasks\.fit: the network of its config .*; the limit is network_slack"):
        monkeypatch.setattr(loading, "build_objective", lambda *a: torch.zeros(2**40))
        load_run(tmp_path / "run", trust_code=True)
    monkeypatch.undo()
    (tmp_path / "run" / "objectives" / "fit.safetensors").unlink()
    with pytest.raises(UserError, match="there are no weights at .*fit.safetensors"):
        load_run(tmp_path / "run", trust_code=True)


def test_what_is_no_run_folder(run: Path, tmp_path: Path) -> None:
    for ask in (load_run, evaluate):
        with pytest.raises(UserError, match=r"is no run folder: it has no recipe\.yaml"):
            ask(tmp_path)
    with pytest.raises(UserError, match="is no run folder: it has no encoders/"):
        load_encoders(tmp_path)
    (tmp_path / "encoders" / "row").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no encoder yet"):
        load_encoders(tmp_path)


def test_evaluating_again_keeps_what_was_not_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = load_encoders(run, trust_code=True)["row"].layer.weight.flatten().tolist()
    (run / "checkpoints/step_2").mkdir(exist_ok=True)
    stopped: list[str] = []
    monkeypatch.setattr(dist, "stop", lambda: stopped.append("stop"))
    found = evaluate(run, ["evals.second.at=4"], evals=["second"], trust_code=True)
    assert {key: score.value for key, score in found.items()} == {"second/weight": weight[4]}
    assert stopped == ["stop"]
    results = json.loads((run / "results.json").read_text())
    assert {key: score["value"] for key, score in results["scores"].items()} == {
        "first/weight": weight[0],
        "second/weight": weight[1],
        "second[at=4]/weight": weight[4],
    }
    assert results["left_out"] == {"first": {}, "second": {}, "second[at=4]": {}}
    assert (results["samples"], results["seed"], results["recipe"]) == (48, 3, "rows")
    assert list(evaluate(run, trust_code=True)) == ["first/weight", "second/weight"]
    with pytest.raises(UserError, match="has no evaluation 'secnd'; did you mean 'second'"):
        evaluate(run, evals=["secnd"], trust_code=True)
    with pytest.raises(UserError, match="evals.first: nothing fits"):
        evaluate(run, ["evals.first.fail=check"], trust_code=True)
    evaluate(run, ["evals.first.fail=check"], evals=["second"], trust_code=True)
    with pytest.raises(UserError, match=r"evals\.first: nothing is there; the other figures stand in .*results\.json"):
        evaluate(run, ["evals.first.fail=run", "evals.second.at=5"], trust_code=True)
    assert read_scores(run)["second[at=5]/weight"].value == weight[5]
    monkeypatch.setattr(dist, "rank", lambda: 1)
    evaluate(run, ["evals.second.at=3"], evals=["second"], trust_code=True)
    assert "second[at=3]/weight" not in read_scores(run), "the first process writes"


def test_a_garbled_file_costs_neither_its_own_figures_nor_the_new_ones(run: Path) -> None:
    file = run / "results.json"
    before = file.read_text()
    file.write_text(before[:-9])
    evaluate(run, evals=["second"], trust_code=True)
    assert list(read_scores(run)) == ["second/weight"]
    assert (run / "results.json.damaged").read_text() == before[:-9]
    (run / "results.json.damaged").unlink()
    file.write_text(before)


def test_features_are_remembered_while_evaluations_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl import judge as module

    inside: list[str] = []

    class Remembering:
        def __enter__(self) -> None:
            inside.append("in")

        def __exit__(self, *error: object) -> None:
            inside.append("out")

    def told(self: Peek, trained: Trained) -> Iterator[tuple[str, Score]]:
        inside.append("run")
        return iter(())

    monkeypatch.setattr(module, "remembering", Remembering)
    monkeypatch.setattr(Peek, "run", told)
    Judge({"a": PEEK, "b": PEEK}).run(Trained({"row": Row()}))
    assert inside == ["in", "run", "run", "out"]
