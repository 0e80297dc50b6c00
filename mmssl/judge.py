"""Evaluations during a run and after it, of a run or of any encoder, and the table they end in."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl import checkpoint, dist, names, own, recipe
from mmssl.errors import UserError, as_user_error, did_you_mean
from mmssl.evals.parts.memory import remembering
from mmssl.evals.parts.progress import showing
from mmssl.evals.parts.report import Report, reporting, warn
from mmssl.evals.parts.results import Judged, read_results, record, scores_of
from mmssl.loading import MODEL, home_of, open_encoders
from mmssl.loading import load_encoders as load_encoders
from mmssl.loading import load_run as load_run
from mmssl.peers import of_connection
from mmssl.run_folder import locked
from mmssl.types import Evaluation, Score, Trained, evaluating

DATA = "data"  # what options of both sets are given under, beside those of protocols and of the model


class NotJudged(UserError):
    """Some evaluations could not be run. scores: the others' figures, which stand in the file."""

    def __init__(self, failed: Mapping[str, str], file: Path, scores: Mapping[str, Score]) -> None:
        said = "; ".join(f"evals.{key}: {error}" for key, error in failed.items())
        super().__init__(said + (f"; the other figures stand in {file}" if scores else ""))
        self.file, self.scores = file, scores


class Judge:
    """Runs a recipe's evaluations when they are due; each is built at once, so that a bad one fails early.

    progress: whether bars show how far an evaluation is.
    """

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]], *, progress: bool = False) -> None:
        self.progress = progress
        self.every = {key: node.get("every") for key, node in nodes.items()}
        self.evaluations: dict[str, Evaluation] = {}
        self.reports: dict[str, Report] = {}  # of the evaluations that have run, the latest
        self.failed: dict[str, str] = {}  # of those that could not be run when they were last, the error
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

        One that fails, for all of its data is damaged, say, or its code is wrong, ends nothing else; see `finish`.
        """
        scores: dict[str, Score] = {}
        keys = list(self.evaluations if keys is None else keys)
        bar = tqdm(total=len(keys), unit="evaluation", leave=False, disable=not (self.progress and dist.rank() == 0))
        with remembering(), showing(self.progress), bar:
            for key in keys:
                if stop and stop():
                    break
                bar.set_description(key)
                with reporting() as report:
                    scores |= {f"{key}/{name}": score for name, score in self._figures(key, trained).items()}
                self.reports[key] = report.everywhere()
                self.reports[key].tell(key)
                bar.update()
        return scores

    def _figures(self, key: str, trained: Trained) -> dict[str, Score]:
        """Returns the figures of an evaluation, none where it fails on any process."""
        judged = (*trained.encoders.values(), *(task.objective for task in trained.tasks.values()))
        self.failed.pop(key, None)
        try:
            with dist.failing_together(), _as_user_error(), evaluating(*judged):
                return dict(self.evaluations[key].run(trained))
        except UserError as error:
            self.failed[key] = str(error)  # not the error, which would keep what its frames hold
            warn(f"not judged: {error}")
            return {}

    def finish(self, file: Path, scores: Mapping[str, Score]) -> None:
        """Raises NotJudged where evaluations could not be run, once the others' figures are in the file."""
        if self.failed:
            raise NotJudged(self.failed, file, scores)

    def remarks(self) -> dict[str, Any]:
        """Returns what results.json says beside the figures: `left_out` and `warnings` of each evaluation that ran."""
        return {
            "left_out": {key: report.counts() for key, report in self.reports.items()},
            "warnings": {key: list(report.warnings) for key, report in self.reports.items()},
        }


@contextmanager
def _as_user_error() -> Iterator[None]:
    """Makes a UserError of every error inside but those of the connection to other processes; prints its traceback."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or of_connection(error):
            raise
        tqdm.write(traceback.format_exc(), file=sys.stderr)
        raise UserError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def write_results(
    folder: Path, made: recipe.Recipe, scores: Mapping[str, Score], *, samples: int, remarks: Mapping[str, Any]
) -> None:
    """Writes results.json after this many samples of training; what was judged otherwise stands there beside it."""
    head = {"recipe": made.name, "seed": made.train.seed, "samples": samples}
    record(folder / "results.json", judged_by(made.evals, scores, remarks, samples=samples), head, newest_first=True)


def judged_by(
    nodes: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Score], remarks: Mapping[str, Any], **about: Any
) -> dict[str, Judged]:
    """Returns for each evaluation that ran by which options, what came of it, and what else is to be told of it."""
    found = {}
    for key in nodes:
        mine = {name.removeprefix(f"{key}/"): score for name, score in scores.items() if name.startswith(f"{key}/")}
        told_of = {name: values[key] for name, values in remarks.items() if key in values}
        if mine or told_of:
            found[key] = Judged(key, nodes[key], mine, told_of, about)
    return found


def run_and_record(
    judge: Judge,
    trained: Trained,
    nodes: Mapping[str, Mapping[str, Any]],
    file: Path,
    head: Mapping[str, Any],
    *,
    keys: Sequence[str] | None = None,
    assumed: Mapping[str, Mapping[str, Any]] | None = None,
    **about: Any,
) -> dict[str, Score]:
    """Judges what was trained by evaluations, and adds the figures to a file: the one way in after training.

    nodes: of the evaluations. head: what the file says of the whole. keys: of the evaluations, by default all.
    assumed: the nodes by which figures were made of which an older file does not say so. about: what is told of each.
    """
    judge.check(trained, keys)
    scores = judge.run(trained, keys)
    if dist.rank() == 0:
        record(file, judged_by(nodes, scores, judge.remarks(), **about), head, assumed=assumed)
    return scores


def evaluate(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    evals: Sequence[str] | None = None,
    progress: bool = True,
    trust_code: bool = False,
) -> dict[str, Score]:
    """Runs the evaluations of a run's recipe on its saved encoders, adds to results.json, and returns the scores.

    overrides: `evals.zero_shot.classes=...` and the like; figures by other options or on other data stand beside those
    that there are. evals: which of them, by default all. trust_code: allow the folder to name code outside mmssl.
    progress: whether bars show how far it is. Raises UserError while a run goes on there, and NotJudged where an
    evaluation fails, once the others' figures are written.
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{run} is no run folder: it has no recipe.yaml; expected a folder that `mmssl train` wrote")
    own, made = (recipe.load(folder / "recipe.yaml", o, trust_code=trust_code) for o in ((), overrides))
    for key in evals or ():
        if key not in made.evals:
            raise UserError(f"the recipe of {run} has no evaluation {key!r}; {did_you_mean(key, made.evals)}")
    with as_user_error(f"{folder / 'recipe.yaml'}: its evaluations cannot be built"):
        judge = Judge(made.evals, progress=progress)
    group = dist.group(made.train.device, timeout=made.train.timeout)
    with group as device, locked(folder):  # a live run writes the same files
        trained = load_run(folder, device=str(device), trust_code=trust_code)
        newest = checkpoint.steps(folder / "checkpoints")[:1]  # the encoders are its
        samples = sum(int(path.name[5:]) for path in newest) * made.per_step
        head = {"recipe": made.name, "seed": made.train.seed, "samples": samples}
        file = folder / "results.json"
        scores = run_and_record(judge, trained, made.evals, file, head, keys=evals, assumed=own.evals, samples=samples)
    judge.finish(file, scores)
    return scores


def judge_encoder(
    path: str,
    protocols: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    train: str,
    data: str,
    out: str | Path | None = None,
    progress: bool = True,
    trust_code: bool = False,
) -> tuple[dict[str, Score], Path]:
    """Runs evaluations that take a training and a test set on an encoder; returns the scores and where they stand.

    path: a run, an encoder's folder, a folder of transformers, or a name such as timm:resnet18, then with its published
    weights. overrides: `linear.solver=sgd` is meant for one protocol, `limit=1000` for all that know it,
    `data.fields.label=json.class` for both sets of shards, `model.pretrained=false` for an encoder made by name.
    out: a JSON file; what stands in it stays. By default eval.json in the folder. progress: whether bars show how far
    it is. trust_code: allow the folder to name code outside mmssl. Raises NotJudged as `evaluate` does.
    """
    tree: dict[str, Any] = {}
    for change in overrides:
        recipe.override(tree, change)
    nodes = plan(protocols, tree, train=train, data=data, trust_code=trust_code)
    judge = Judge(nodes, progress=progress)
    with dist.group() as device:
        trained = Trained(open_encoders(path, tree.get(MODEL) or {}, device=str(device), trust_code=trust_code))
        file = Path(out) if out is not None else home_of(path) / "eval.json"
        model = {"judged": path, **({MODEL: tree[MODEL]} if tree.get(MODEL) else {})}
        scores = run_and_record(judge, trained, nodes, file, {}, **model)
    judge.finish(file, scores)
    return scores, file


def plan(
    protocols: Sequence[str], tree: Mapping[str, Any], *, train: str, data: str, trust_code: bool
) -> dict[str, dict[str, Any]]:
    """Returns a node for each protocol; UserError for an option that none of them has."""
    nodes: dict[str, dict[str, Any]] = {}
    known: dict[str, set[str]] = {}
    for spelled in protocols:
        kind, _ = names.resolve("evals", spelled, trust_code=trust_code)
        name = own.title(spelled)
        known[name] = set(names.options_of(kind))
        if not {"train", "data"} <= known[name]:
            raise UserError(
                f"{name!r} learns from no labels; with --train and --data go knn, linear, finetune and the like"
            )
        sets = {key: {"shards": shards, **(tree.get(DATA) or {})} for key, shards in (("train", train), ("data", data))}
        nodes[name] = {"name": spelled, **sets}
    every = {*nodes, MODEL, DATA, *set().union(*known.values())}
    for key, value in tree.items():
        takers = [name for name, options in known.items() if key in options]
        if key in nodes and isinstance(value, dict):
            nodes[key] |= value
        elif key not in (MODEL, DATA) and not takers:
            raise UserError(f"no protocol has the option {key!r}; {did_you_mean(key, every)}")
        for name in takers if key not in (MODEL, DATA, *nodes) else ():
            nodes[name][key] = value
    return nodes


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
