"""Evaluations during a run and after it, and the table they end in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmssl import checkpoint, dist, names, recipe
from mmssl.assembly import build_objective, pretexts
from mmssl.errors import UserError, did_you_mean, told
from mmssl.evals.parts.memory import remembering
from mmssl.evals.parts.report import Report, reporting, warn
from mmssl.evals.parts.results import read_or_set_aside, read_results, scores_of
from mmssl.files import write_atomically
from mmssl.nn.bounded import bounded, check_values
from mmssl.run_folder import locked, read_whole
from mmssl.types import Encoder, Evaluation, Objective, Score, Trained, evaluating


class Judge:
    """Runs a recipe's evaluations when they are due; each is built at once, so that a bad one fails early."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        self.every = {key: node.get("every") for key, node in nodes.items()}
        self.evaluations: dict[str, Evaluation] = {}
        self.reports: dict[str, Report] = {}  # of the evaluations that have run, the latest
        self.failed: dict[str, UserError] = {}
        for key, node in nodes.items():
            name, options = recipe.split({k: v for k, v in node.items() if k != "every"}, default=key)
            self.evaluations[key] = names.build("evals", name, where=f"evals.{key}", **options)

    def due(
        self,
        trained: Callable[[], Trained],
        samples: int,
        step: int,
        *,
        last: bool,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, Score]:
        """Runs what falls due within the last `step` samples, and everything at the end; `trained()` is then judged.

        stop: asked before each evaluation, which is not begun if it says so.
        """
        now = [k for k, every in self.every.items() if last or (every and samples // every > (samples - step) // every)]
        return self.run(trained(), now, stop=stop) if now else {}

    def check(self, trained: Trained, keys: Sequence[str] | None = None) -> None:
        """Raises UserError for the first of some evaluations, by default all, that lacks what it needs."""
        for key in self.evaluations if keys is None else keys:
            with reporting() as report:
                try:
                    self.evaluations[key].check(trained)
                except UserError as error:
                    raise UserError(f"evals.{key}: {error}") from None
            report.tell(f"evals.{key}")

    def run(
        self, trained: Trained, keys: Sequence[str] | None = None, *, stop: Callable[[], bool] | None = None
    ) -> dict[str, Score]:
        """Runs some evaluations, by default all, or until `stop` says so; returns `evaluation/figure` -> score.

        One that raises UserError, for all of its data is damaged, say, leaves the others' figures; see `finish`.
        """
        scores: dict[str, Score] = {}
        judged = (*trained.encoders.values(), *(task.objective for task in trained.tasks.values()))
        with remembering():
            for key in self.evaluations if keys is None else keys:
                if stop and stop():
                    break
                self.failed.pop(key, None)
                with evaluating(*judged), reporting() as report:
                    try:
                        scores |= {f"{key}/{name}": score for name, score in self.evaluations[key].run(trained)}
                    except UserError as error:
                        if dist.world() > 1:  # the others may not have met it, and would wait
                            raise
                        self.failed[key] = error
                        warn(f"not judged: {error}")
                self.reports[key] = report.everywhere()
                self.reports[key].tell(key)
        return scores

    def finish(self, file: Path) -> None:
        """Raises the first error of the evaluations that could not be run, once the others' figures are in the file."""
        for key, error in self.failed.items():
            raise UserError(f"evals.{key}: {error}; the other figures stand in {file}") from error

    def remarks(self) -> dict[str, Any]:
        """Returns what results.json says beside the figures: `left_out` and `warnings` of each evaluation that ran."""
        return {
            "left_out": {key: report.counts() for key, report in self.reports.items()},
            "warnings": {key: list(report.warnings) for key, report in self.reports.items()},
        }


def merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns remarks of now, and of before those about evaluations that did not run again."""
    return {name: {**before.get(name, {}), **values} for name, values in now.items()}


def write_results(
    folder: Path, made: recipe.Recipe, scores: Mapping[str, Score], *, samples: int, remarks: Mapping[str, Any]
) -> None:
    """Writes results.json: every figure with value, 95% interval, chance level and n, and what was left out."""
    results = {
        "recipe": made.name,
        "seed": made.train.seed,
        "samples": samples,
        **remarks,
        "scores": {key: asdict(score) for key, score in scores.items()},
    }
    write_atomically(folder / "results.json", json.dumps(results, indent=2).encode())


def load_encoders(run: str | Path, *, device: str = "cpu", trust_code: bool = False) -> dict[str, Encoder]:
    """Loads every encoder of a run folder, key -> encoder."""
    folder = Path(run) / "encoders"
    if not folder.is_dir():
        raise UserError(f"{run} is no run folder: it has no encoders/; expected a folder that `mmssl train` wrote")
    found = {path.name: path for path in sorted(folder.iterdir()) if (path / "config.json").is_file()}
    if not found:
        raise UserError(f"{folder} holds no encoder yet; the first checkpoint writes them")
    return read_whole(
        Path(run),
        lambda: {
            key: checkpoint.load_encoder(path, device=device, trust_code=trust_code) for key, path in found.items()
        },
    )


def load_run(run: str | Path, *, device: str = "cpu", trust_code: bool = False) -> Trained:
    """Loads a run folder's encoders, and the objectives of its tasks as its recipe says.

    trust_code: allow the folder to name code outside mmssl.
    """
    return read_whole(Path(run), lambda: _load_run(Path(run), device, trust_code))


def _load_run(folder: Path, device: str, trust_code: bool) -> Trained:
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it has no recipe.yaml; expected a folder that `mmssl train` wrote")
    made = recipe.load(folder / "recipe.yaml", trust_code=trust_code)
    encoders = load_encoders(folder, device=device, trust_code=trust_code)
    learnt = {key: encoder for key, encoder in encoders.items() if key in made.encoders}  # teachers are not among them
    objectives = {}
    for key in made.tasks:
        objectives[key] = _load_objective(folder, made, key, learnt).to(device).eval()
    return Trained(encoders, pretexts(made, objectives))


def _load_objective(folder: Path, made: recipe.Recipe, key: str, encoders: Mapping[str, Encoder]) -> Objective:
    """Builds one task's objective within what its weights, and the encoders' that it may copy, speak for."""
    where, file = f"{folder / 'recipe.yaml'}: tasks.{key}", folder / "objectives" / f"{key}.safetensors"
    options = {"objective": made.tasks[key].objective[1], "view": made.tasks[key].view[1]}
    check_values(options, where)
    others = [folder / "encoders" / encoder / "model.safetensors" for encoder in encoders]
    with told(f"{where} describes an objective that cannot be built"), bounded(where, file, *others, loaded=True):
        objective = build_objective(made, key, encoders)
    checkpoint.load_weights(objective, file)
    return objective


def evaluate(
    run: str | Path, overrides: Sequence[str] = (), *, evals: Sequence[str] | None = None, trust_code: bool = False
) -> dict[str, Score]:
    """Runs the evaluations of a run's recipe on its saved encoders, writes results.json, and returns the scores.

    overrides: `evals.zero_shot.classes=...` and the like. evals: which of them, by default all. trust_code: allow
    the folder to name code outside mmssl. Raises UserError while a run goes on there.
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{run} is no run folder: it has no recipe.yaml; expected a folder that `mmssl train` wrote")
    made = recipe.load(folder / "recipe.yaml", overrides, trust_code=trust_code)
    for key in evals or ():
        if key not in made.evals:
            raise UserError(f"the recipe of {run} has no evaluation {key!r}; {did_you_mean(key, made.evals)}")
    with told(f"{folder / 'recipe.yaml'}: its evaluations cannot be built"):
        judge = Judge(made.evals)
    group = dist.group(made.train.device, timeout=made.train.timeout)
    with group as device, locked(folder):  # a live run writes the same files
        trained = load_run(folder, device=str(device), trust_code=trust_code)
        judge.check(trained, evals)
        scores = judge.run(trained, evals)
        if dist.rank() == 0:
            newest = checkpoint.steps(folder / "checkpoints")[:1]  # the encoders are its
            samples = sum(int(path.name[5:]) for path in newest) * made.per_step
            before = read_or_set_aside(folder / "results.json")
            remarks = merged(before, judge.remarks())
            write_results(folder, made, {**scores_of(before), **scores}, samples=samples, remarks=remarks)
        judge.finish(folder / "results.json")
    return scores


def read_scores(run: str | Path) -> dict[str, Score]:
    """Reads back the scores in a run's results.json, none when there is none."""
    return scores_of(read_results(Path(run) / "results.json"))


def judged_at(run: str | Path) -> int:
    """Returns after how many samples a run was judged last, 0 for never."""
    return read_results(Path(run) / "results.json").get("samples", 0)


def table(scores: Mapping[str, Score]) -> str:
    """Lays scores out as a table of text; with what answers without learning reach, where that was measured."""
    with_trivial = any(s.trivial is not None for s in scores.values())
    rows = [("", "value", "95% interval", "chance", *(["trivial"] if with_trivial else []), "n")]
    for key, s in scores.items():
        trivial = ["" if s.trivial is None else f"{s.trivial:.3f}"] if with_trivial else []
        rows.append((key, f"{s.value:.3f}", f"{s.low:.3f} - {s.high:.3f}", f"{s.chance:.3f}", *trivial, str(s.n)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
