"""YAML -> Recipe: read, overridden, and every node checked before anything is built."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from mmssl import dist, names, own
from mmssl.data.loader import Loader
from mmssl.data.mixture import MixedSource
from mmssl.data.patterns import is_special, urls
from mmssl.data.shards import Source
from mmssl.errors import UserError, did_you_mean
from mmssl.log import WandbOptions
from mmssl.optim.groups import HEADS, GroupOptions, Share
from mmssl.schema import (
    Count,
    FileName,
    Only,
    Positive,
    at_least,
    at_most,
    below,
    fit,
    parse_yaml,
    read_yaml,
    shortened,
)
from mmssl.types import Objective, View


def _is_much(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d*(_\d+)* (samples|steps)", text) is not None


Much = Annotated[str, Only("that is a number of samples or steps, as '5000 samples'", _is_much)]


@dataclass(kw_only=True, slots=True)
class TrainOptions:
    """How long and how: the `train` node of a recipe.

    samples: how many samples the run sees in all, over all tasks.
    warmup: optimizer steps in which the learning rate rises.
    seed: of all that is random.
    precision: of autocast; auto is bf16 where the device computes in it and fp32 where it would only emulate it.
    accumulate: parts in which each batch is worked.
    clip_grad: largest gradient norm, 0 for none.
    ema: decay of the averaged weights that are evaluated and saved, 0 for none.
    final_lr: the last learning rate as a share of the peak.
    compile: whether torch.compile makes the step faster.
    checkpointing: whether the blocks of encoders keep their input alone, and are computed again in the backward pass,
        for less memory and more time: true for all encoders that have blocks, or the keys of some, as [image].
    device: such as cuda or cpu; by default a GPU where there is one.
    threads: torch's threads per process, by default torch's own choice.
    deterministic: one seed gives one run, bit by bit, on a GPU too, as it does on a CPU; slower.
    freeze: parts of encoders that do not train, as [text, image.blocks.0-5], or each with the share of training after
        which it does, as {image.blocks.0-5: 0.3}, 1 for never. BatchNorm statistics in them stay as they are, and
        nothing is dropped. Names are those of the network's modules; a part within another goes by its own share.
    start: the weights that encoders begin with: a run's folder, an encoder's, ours or of transformers, or a file of
        MoCo, DINO, MAE, SwAV, ... (docs/export.md); one for all that it has weights for, or {encoder: PLACE, ...}.
    log_every: optimizer steps between lines of the log, or how much, as "5000 samples".
    save_every: samples between checkpoints, by default a tenth of the run.
    keep: how many checkpoints stay.
    max_bad_steps: how many steps whose gradient is not finite are skipped before the run stops.
    timeout: seconds that several processes wait for one that does not come to where they need it, or gives no sign of
        life, before all end; what they do at the same time may take longer.
    wandb: whether figures are sent to Weights & Biases, and where to.
    """

    samples: Positive
    warmup: Count = 0
    seed: Annotated[int, at_least(0), below(2**62)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Positive = 1
    clip_grad: Annotated[float, at_least(0)] = 0.0
    ema: Annotated[float, at_least(0), below(1)] = 0.0
    final_lr: Annotated[float, at_least(0), at_most(1)] = 0.0
    compile: bool = False
    checkpointing: bool | list[str] = False
    device: str | None = None
    threads: Annotated[int, at_least(1), at_most(1024)] | None = None
    deterministic: bool = False
    freeze: list[str] | dict[str, Share] = field(default_factory=list)
    start: str | dict[str, str] = field(default_factory=dict)
    log_every: Positive | Much = 10
    save_every: Positive | None = None
    keep: Positive = 2
    max_bad_steps: Count = 10
    timeout: Annotated[float, at_least(1)] = dist.TIMEOUT
    wandb: bool | WandbOptions = False

    @property
    def frozen(self) -> dict[str, float]:
        """The name of each frozen part -> the share of training after which it trains, 1 for never."""
        return self.freeze if isinstance(self.freeze, dict) else dict.fromkeys(self.freeze, 1.0)


@dataclass(kw_only=True, slots=True)
class EncoderOptions:
    """What a recipe may say of any encoder, besides its name and its own options.

    modality: what it reads; by default its key up to the first `_`, so that `points_voxels` reads points.
    field: the field of a sample that it reads, by default the one called as its modality.
    """

    modality: str | None = None
    field: str | None = None


@dataclass(kw_only=True, slots=True)
class EvaluationOptions:
    """What a recipe may say of any evaluation, besides its name and its own options.

    every: samples between its runs while training; it runs after training in any case.
    """

    every: Positive | None = None


@dataclass(kw_only=True, slots=True)
class Task:
    """One task of a run: where its samples come from, what is asked of them, how many a step, and its weight.

    `objective` and `view` are what `method` names, found once, each with its checked options.

    data: where its samples come from, or a list of sources to mix by weight (`mmssl explain data`).
    method: its name, by default the task's own, and options of `objective` and `view` (`mmssl explain METHOD`).
    batch: samples of a step, over all processes.
    weight: of its loss in the sum of all tasks.
    """

    data: dict[str, Any] | list[dict[str, Any]]
    method: dict[str, Any]
    batch: Positive
    weight: Annotated[float, at_least(0), below(math.inf)] = 1.0
    objective: tuple[type[Objective], dict[str, Any]] = field(init=False)
    view: tuple[type[View], dict[str, Any]] = field(init=False)


@dataclass(slots=True)
class Recipe:
    """A whole run, checked. `plain` is the resolved YAML that is saved beside the checkpoints.

    groups: options of the weights of parts, by the parts' names: `optim.groups`.
    """

    name: str
    encoders: dict[str, dict[str, Any]]
    tasks: dict[str, Task]
    optim: dict[str, Any]
    groups: dict[str, GroupOptions]
    train: TrainOptions
    evals: dict[str, dict[str, Any]]
    plain: dict[str, Any]

    @property
    def per_step(self) -> int:
        """Samples of one optimizer step, over all tasks and processes."""
        return sum(task.batch for task in self.tasks.values())

    @property
    def log_steps(self) -> int:
        """Optimizer steps between lines of the log."""
        number, _, unit = str(self.train.log_every).partition(" ")
        return max(1, int(number) // (self.per_step if unit == "samples" else 1))

    def dump(self) -> str:
        """Returns the resolved recipe as YAML; files of own code are named as `code` has them."""
        return yaml.safe_dump({**self.plain, **self._gathered()[0]}, sort_keys=False)

    @property
    def code(self) -> dict[str, bytes]:
        """The copies of own files that the dumped recipe names: path beside it -> content."""
        return self._gathered()[1]

    def _gathered(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        return own.gathered({key: node for key, node in self.plain.items() if key != "name"})


NODES = ("name", "encoders", "tasks", "optim", "train", "evals")


def find(path: str | Path) -> Path:
    """Returns a recipe's file: a path, or a name under configs such as `cross_modal/clip_emoji`."""
    given = Path(path)
    shipped = names.home("configs") / str(path).removeprefix("configs/").removesuffix(".yaml")
    for file in (given, shipped.with_name(shipped.name + ".yaml")):
        if file.is_file():
            return file
    known = names.list_names("configs")
    raise UserError(
        f"there is no recipe {str(path)!r}: no such file, and of the shipped ones {_near(str(path), known)}"
    )


def _near(word: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"the nearest is {close[0]!r}" if close else "none comes near (see `mmssl list configs`)"


def load(path: str | Path, overrides: Sequence[str] = (), *, trust_code: bool = True) -> Recipe:
    """Reads a recipe file, applies `dotted.key=value` overrides, and checks every node.

    trust_code: whether the file is one's own, or trusted. Another's must name no code outside mmssl, and shards by
    their paths: no command, no address. Overrides are the caller's own words, whatever the file is.

    Files of own code are found beside the recipe, those that overrides name from the working folder.
    Raises UserError for a missing file, broken YAML, an unknown or mistyped option, or what is not trusted.
    """
    file = find(path)
    tree = read_yaml(file)
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds no recipe; expected a mapping with {', '.join(NODES)}")
    if not trust_code:
        check(tree, trust_code=False)
    tree = _located(tree, file.parent)
    for change in overrides:
        override(tree, change)
    tree.setdefault("name", file.stem)
    return check(tree)


def _located(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a recipe's plain values with whole paths of the own code they name; the run's own name is any."""
    return {key: node if key == "name" else own.located(node, folder) for key, node in tree.items()}


def override(tree: dict[str, Any], change: str) -> None:
    """Sets one value of a tree of plain values as `dotted.key=value` says; UserError where that is not possible."""
    path, equals, text = change.partition("=")
    if not equals:
        raise UserError(f"{change!r} is no override; write it as key.key=value")
    *parents, last = path.split(".")
    node: Any = tree
    for key in parents:
        child = node.setdefault(key, {}) if isinstance(node, dict) else node[_place(node, key, change)]
        if not isinstance(child, dict | list):
            raise UserError(f"{change!r}: {key!r} is the value {child!r}, it has no {last!r} below it")
        node = child
    value = parse_yaml(text, where=f"{change!r}: the value")
    node[last if isinstance(node, dict) else _place(node, last, change)] = value


def _place(items: list[Any], key: str, change: str) -> int:
    """Returns which item of a list an override names, by its number from 0."""
    if not key.isascii() or not key.isdigit() or int(key) >= len(items):
        raise UserError(
            f"{change!r}: {key!r} stands for an item of a list; expected a number from 0 to {len(items) - 1}"
        )
    return int(key)


def check(tree: dict[str, Any], *, trust_code: bool = True) -> Recipe:
    """Checks a recipe given as plain values and returns it; nothing is built and no data is read.

    trust_code: as `load` has it.
    """
    for key in tree:
        if key not in NODES:
            raise UserError(f"a recipe has no node {shortened(key)}; {did_you_mean(key, NODES)}")
    if not trust_code:
        _refuse_strange({key: node for key, node in tree.items() if key != "name"})  # the run's own name is any
    tree = _located(tree, Path())
    encoders = _mapping(tree, "encoders")
    tasks = _mapping(tree, "tasks")
    for key, node in encoders.items():
        _encoder(node, f"encoders.{key}", trust_code)
    checked_tasks = {
        key: _task(node, f"tasks.{key}", default=key, trust_code=trust_code) for key, node in tasks.items()
    }
    optim, groups = _optim(tree.get("optim", {"name": "adamw"}), encoders, trust_code)
    train = TrainOptions(**names.check_options(TrainOptions, tree.get("train") or {}, where="train", see="train"))
    named: dict[str, Iterable[str]] = {
        "freeze": [part.partition(".")[0] for part in train.freeze],
        "start": () if isinstance(train.start, str) else train.start,
        "checkpointing": train.checkpointing if isinstance(train.checkpointing, list) else (),
    }
    for name, keys in named.items():
        for key in keys:
            if key not in encoders:
                raise UserError(f"train.{name} names {shortened(key)}; {did_you_mean(key, encoders)}")
    nodes = fit(tree.get("evals") or {}, dict[str, Any], "evals")
    evals = {key: _evaluation(node, key, trust_code) for key, node in nodes.items()}
    return Recipe(_run_name(tree.get("name", "run")), encoders, checked_tasks, optim, groups, train, evals, tree)


def _run_name(value: Any) -> str:
    """Returns a run's name, after which its folder in runs is called."""
    name = str(value) if isinstance(value, int | float | date) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"name is {shortened(value)}; expected that of a folder in runs")
    return name


def _refuse_strange(value: Any, key: str = "") -> None:
    """Raises UserError where a node names code outside mmssl, or shards by anything else than their paths."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_strange(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _refuse_strange(inner, key)
    elif isinstance(value, str) and key == "name":
        names.refuse_foreign(value, trust_code=False)
    elif isinstance(value, str) and key == "shards" and not _is_path(value):
        raise UserError(
            f"the shards {shortened(value)} may be a command, an address or a device, with which a run is not trusted; "
            f"say yourself where they are, as in evals.NAME.data.shards=..., or {names.TRUST}"
        )


def _is_path(pattern: str) -> bool:
    """Tells whether a pattern stands for paths alone, whatever its braces and variables become, and for no device."""
    if "::" in pattern or pattern == "-" or not (pattern.startswith("/") or not {":", "$"} & {*pattern}):
        return False
    return not any(map(is_special, urls(pattern)))


def _mapping(tree: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Returns the nodes of encoders or tasks, whose names are those of files too."""
    node = tree.get(key)
    if not isinstance(node, dict) or not node or not all(isinstance(value, dict) for value in node.values()):
        raise UserError(f"{key} is {shortened(node)}; expected a mapping of names to nodes, at least one")
    return {fit(name, FileName, f"a name of {key}"): value for name, value in node.items()}


def split(node: Mapping[str, Any], *, default: str | None = None) -> tuple[str, dict[str, Any]]:
    """Splits a node into its name and its options."""
    options = {key: value for key, value in node.items() if key != "name"}
    if "name" not in node and default and own.is_file(default):
        raise UserError(f"the key {shortened(default)} is a file; choose another key, and write in it name: {default}")
    name: str = fit(node.get("name", default), str, "name")
    return name, options


def _checked(room: str, node: Any, where: str, *, default: str | None, trust_code: bool) -> Any:
    """Checks a named node's options against what the name stands for, and returns that."""
    if not isinstance(node, dict) or (default is None and "name" not in node):
        raise UserError(f"{where} is {shortened(node)}; expected a mapping with a `name`")
    name, options = split(node, default=default)
    factory, _ = names.resolve(room, name, trust_code=trust_code)
    names.check_options(factory, options, where=where, see=names.spelled(room, name))
    return factory


def split_encoder(node: Mapping[str, Any], *, where: str) -> tuple[EncoderOptions, dict[str, Any]]:
    """Splits an encoder's node into what may be said of any encoder, and its name and own options.

    An option that the encoder has too, such as the modality of `transformers`, goes to both.
    """
    shared = {key: value for key, value in node.items() if key in names.options_of(EncoderOptions)}
    own = names.options_of(names.resolve("encoders", node["name"])[0])
    rest = {key: value for key, value in node.items() if key not in shared or key in own}
    return EncoderOptions(**names.check_options(EncoderOptions, shared, where=where)), rest


def _encoder(node: dict[str, Any], where: str, trust_code: bool) -> None:
    """Checks an encoder's node."""
    if isinstance(node.get("name"), str):
        names.resolve("encoders", node["name"], trust_code=trust_code)
        node = split_encoder(node, where=where)[1]
    _checked("encoders", node, where, default=None, trust_code=trust_code)


def _optim(node: Any, encoders: Mapping[str, Any], trust_code: bool) -> tuple[dict[str, Any], dict[str, GroupOptions]]:
    """Checks the optimizer's node and returns it without its groups, and those."""
    groups = fit(node.get("groups") or {}, dict[str, Any], "optim.groups") if isinstance(node, dict) else {}
    rest = {key: value for key, value in node.items() if key != "groups"} if isinstance(node, dict) else node
    _checked("optim", rest, "optim", default="adamw", trust_code=trust_code)
    if groups and HEADS in encoders:
        raise UserError(f"optim.groups.{HEADS} are the objectives' weights; give the encoder {HEADS!r} another name")
    found = {}
    for name, options in groups.items():
        if (key := name.partition(".")[0]) not in (known := (HEADS, *encoders)):
            raise UserError(f"optim.groups names {shortened(key)}; {did_you_mean(key, known)}")
        found[name] = GroupOptions(**names.check_options(GroupOptions, options, where=f"optim.groups.{name}"))
    return rest, found


def _task(node: dict[str, Any], where: str, *, default: str, trust_code: bool) -> Task:
    task = Task(**names.check_options(Task, node, where=where, see="task"))
    split_data(task.data, where=f"{where}.data")
    name, parts = split(task.method, default=default)
    method = _without_variant("methods", name, f"{where}.method", trust_code)
    for key in parts:
        if key not in ("view", "objective"):
            raise UserError(f"{where}.method has no part {shortened(key)}; {did_you_mean(key, ('view', 'objective'))}")
    task.method = {"name": name, **parts}
    see, at = names.spelled("methods", name), f"{where}.method"
    options = names.check_options(method.objective, parts.get("objective", {}), where=f"{at}.objective", see=see)
    task.objective = method.objective, options
    view = fit(parts.get("view") or {}, dict[str, Any], f"{at}.view")
    task.view = _shown_by(method.view, view, f"{at}.view", see, trust_code)
    return task


def _shown_by(
    own: type[View], node: Mapping[str, Any], where: str, see: str, trust_code: bool
) -> tuple[type[View], dict[str, Any]]:
    """Returns a method's own View, or the one of views/ that the node names, and its checked options."""
    name, options = split(node, default="")
    view = _without_variant("views", name, where, trust_code) if name else own
    return view, names.check_options(view, options, where=where, see=names.spelled("views", name) if name else see)


def _without_variant(room: str, name: str, where: str, trust_code: bool) -> Any:
    """Returns what a name stands for; a part behind its colon must be something that the file defines."""
    found, variant = names.resolve(room, name, trust_code=trust_code)
    if variant is not None:
        raise UserError(f"{where}: the {room.rstrip('s')} {name.partition(':')[0]!r} has no variant {variant!r}")
    return found


LOADER_FIXED = ("batch", "seed", "rank", "world")  # these the run decides


def split_data(node: Mapping[str, Any] | list[Any], *, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a `data` node into checked options of Source, or of the `sources` that are mixed, and of Loader.

    A list is short for {sources: LIST}.
    """
    node = {"sources": node} if isinstance(node, list) else node
    mixed = "sources" in node
    for_source = {"sources": None} if mixed else names.options_of(Source)
    for_loader = {key: p for key, p in names.options_of(Loader).items() if key not in LOADER_FIXED}
    for key in node:
        if key not in for_source and key not in for_loader:
            hint = did_you_mean(key, [*for_source, *for_loader])
            raise UserError(f"{where} has no option {shortened(key)}; {hint}; see: mmssl explain data")
    source = {key: value for key, value in node.items() if key in for_source}
    loader = {key: value for key, value in node.items() if key in for_loader}
    loader = names.check_options(Loader, {**loader, "batch": 1}, where=where, see="data")
    del loader["batch"]
    return _mixed(source["sources"], where) if mixed else _of_one(Source, source, where), loader


def _mixed(sources: Any, where: str) -> dict[str, Any]:
    nodes = fit(sources, list[dict[str, Any]], f"{where}.sources")
    return {"sources": [_of_one(MixedSource, node, f"{where}.{i}") for i, node in enumerate(nodes)]}


def _of_one(kind: type[Source], node: Mapping[str, Any], where: str) -> dict[str, Any]:
    return names.check_options(kind, node, where=where, see="data")


def _evaluation(node: Any, key: str, trust_code: bool) -> dict[str, Any]:
    where = f"evals.{key}"
    if not isinstance(node, dict):
        raise UserError(f"{where} is {shortened(node)}; expected a mapping")
    shared = {name: value for name, value in node.items() if name == "every"}
    names.check_options(EvaluationOptions, shared, where=where)
    rest = {name: value for name, value in node.items() if name not in shared}
    _checked("evals", rest, where, default=key, trust_code=trust_code)
    return {"name": key, **node}
