"""Any encoder judged by several evaluations on shards with labels, in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmssl import checkpoint, dist, names, recipe
from mmssl.encoders import create_encoder, refuse_fetching
from mmssl.errors import UserError, did_you_mean
from mmssl.evals.parts.results import Results, read_or_set_aside
from mmssl.files import write_atomically
from mmssl.judge import Judge, load_encoders, merged
from mmssl.schema import fit, read_json
from mmssl.types import Encoder, Score, Trained

MODEL, DATA = "model", "data"  # beside the protocols, what options may be meant for


def judge_encoder(
    path: str,
    protocols: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    train: str,
    data: str,
    out: str | Path | None = None,
    trust_code: bool = False,
) -> tuple[dict[str, Score], Path]:
    """Runs evaluations that take a training and a test set on an encoder; returns the scores and where they stand.

    path: a run, an encoder's folder, a folder of transformers, or a name such as timm:resnet18, then with its published
    weights. overrides: `linear.solver=sgd` is meant for one protocol, `limit=1000` for all that know it,
    `data.fields.label=json.class` for both sets of shards, `model.pretrained=false` for an encoder made by name.
    out: a JSON file; what stands in it of the same encoder and shards stays. By default eval.json in the folder.
    trust_code: allow the folder to name code outside mmssl.
    """
    tree: dict[str, Any] = {}
    for change in overrides:
        recipe.override(tree, change)
    nodes = plan(protocols, tree, train=train, data=data, trust_code=trust_code)
    judge = Judge(nodes)
    with dist.group() as device:
        trained = Trained(open_encoders(path, tree.get(MODEL) or {}, device=str(device), trust_code=trust_code))
        judge.check(trained)
        scores = judge.run(trained)
        file = Path(out) if out is not None else _home(path) / "eval.json"
        if dist.rank() == 0:
            _write(file, {"encoder": path, "train": train, "data": data}, nodes, scores, judge.remarks())
        judge.finish(file)
    return scores, file


def plan(
    protocols: Sequence[str], tree: Mapping[str, Any], *, train: str, data: str, trust_code: bool
) -> dict[str, dict[str, Any]]:
    """Returns a node for each protocol; UserError for an option that none of them has."""
    nodes: dict[str, dict[str, Any]] = {}
    known: dict[str, set[str]] = {}
    for name in protocols:
        kind, _ = names.resolve("evals", name, trust_code=trust_code)
        known[name] = set(names.options_of(kind))
        if not {"train", "data"} <= known[name]:
            raise UserError(
                f"{name!r} learns from no labels; with --train and --data go knn, linear, finetune and the like"
            )
        sets = {key: {"shards": shards, **(tree.get(DATA) or {})} for key, shards in (("train", train), ("data", data))}
        nodes[name] = {"name": name, **sets}
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


def open_encoders(
    path: str, options: Mapping[str, Any], *, device: str = "cpu", trust_code: bool = False
) -> dict[str, Encoder]:
    """Returns every encoder of a run, or the one that a folder or a name stands for, by its modality."""
    folder, name = Path(path), path
    if _is_own(folder):
        if options:
            raise UserError(f"{path} says itself what its encoder is; leave {MODEL}.{next(iter(options))} out")
        if (folder / "encoders").is_dir():
            return load_encoders(folder, device=device, trust_code=trust_code)
        encoder = checkpoint.load_encoder(folder, device=device, trust_code=trust_code)
        return {encoder.modality: encoder}
    if (folder / "config.json").is_file():
        name = f"transformers:{path}"
        if not trust_code:
            refuse_fetching("transformers", {"architecture": read_json(folder / "config.json")})
    elif folder.is_dir() or ("/" in path and ":" not in path):
        what = "there is no folder" if not folder.is_dir() else "neither a run nor an encoder is in"
        raise UserError(f"{what} {path}; expected encoders/ or config.json in it, or a name such as timm:resnet18")
    encoder = create_encoder(name, where=path, trust_code=trust_code, **{**_published(name, trust_code), **options})
    return {encoder.modality: encoder.to(device).eval()}


def _is_own(folder: Path) -> bool:
    """Tells whether a folder is a run's, or that of an encoder which mmssl saved, however damaged."""
    if (folder / "encoders").is_dir() or not (folder / "model.safetensors").is_file():
        return (folder / "encoders").is_dir()
    try:
        return "format" in fit(read_json(folder / "config.json"), dict[str, Any], "it")
    except UserError:
        return True  # load_encoder tells what is wrong with it


def _published(name: str, trust_code: bool) -> dict[str, Any]:
    """Returns the options by which a model that is known by name gets the weights that it is known for."""
    kind, variant = names.resolve("encoders", name, trust_code=trust_code)
    published = {"pretrained": True, "weights": "DEFAULT"} if variant else {}
    return {key: value for key, value in published.items() if key in names.options_of(kind)}


def _home(path: str) -> Path:
    """Returns the folder where figures go: a run's or an encoder's own; for what is not ours, one under runs."""
    return Path(path) if _is_own(Path(path)) else Path("runs") / path.strip("/").replace("/", "_").replace(":", "_")


def _write(
    file: Path, what: dict[str, str], nodes: Mapping[str, Any], scores: Mapping[str, Score], remarks: Mapping[str, Any]
) -> None:
    before = read_or_set_aside(file)
    stays: Results = before if all(before.get(key) == value for key, value in what.items()) else {}
    others = {key: score for key, score in stays.get("scores", {}).items() if key.split("/")[0] not in nodes}
    found = {**others, **{key: asdict(score) for key, score in scores.items()}}
    protocols = {**stays.get("protocols", {}), **nodes}
    values = {**what, "protocols": protocols, **merged(stays, remarks), "scores": found}
    write_atomically(file, json.dumps(values, indent=2).encode())
