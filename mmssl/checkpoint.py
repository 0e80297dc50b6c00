"""Checkpoints that are whole or absent, and one folder per encoder that needs nothing else to load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mmssl import names, own
from mmssl.encoders import create_encoder, refuse_fetching
from mmssl.errors import UserError, as_user_error, did_you_mean
from mmssl.files import naming, sync, sync_folder, write_atomically
from mmssl.nn.bounded import bounded, check_values
from mmssl.nn.misfit import misfit
from mmssl.schema import Positive, fit, read_json, shortened
from mmssl.types import Encoder, Head, Preprocess

FORMAT = 1
HEADS = "mmssl.nn.head"


def save_state(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Writes `folder/step_N/state.pt` atomically, then removes all but the newest `keep`, at least one.

    state: tensors and plain values only, so that it loads with weights_only=True. Raises OSError with the checkpoint's
    name, and leaves those before as they are.
    """
    target, temporary = folder / f"step_{step}", folder / f".step_{step}.tmp"
    with naming(target):
        for left in folder.glob(".step_*.tmp"):  # by a process that was killed
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        try:
            with (temporary / "state.pt").open("xb") as file:
                torch.save(state, file)
            sync(temporary / "state.pt")
            if target.is_dir():
                (temporary / "state.pt").replace(target / "state.pt")
                temporary.rmdir()
            else:
                sync_folder(temporary)
                temporary.replace(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder)
        for old in steps(folder)[max(1, keep) :]:
            shutil.rmtree(old)
    return target


def steps(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step_*") if path.name[5:].isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def load_state(folder: Path, *, schema: Any = dict[str, Any]) -> tuple[dict[str, Any] | None, dict[Path, str]]:
    """Returns the newest state that loads, None where there is no checkpoint, and what is wrong with each newer one.

    schema: the type of what it must hold (mmssl.schema); one that lacks a part does not load. Raises UserError where
    there are some and none loads, and for one that the system does not let be read: that is no damage, and to go on
    from an older one would cost what was made since.
    """
    problems: dict[Path, str] = {}
    for path in steps(folder):
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            fit(state, schema, "the state")
            return state, problems
        except (FileNotFoundError, IsADirectoryError):
            problems[path] = "holds no file state.pt"
        except OSError as error:
            raise UserError(
                f"{path / 'state.pt'} cannot be read: {error.strerror or error}; nothing was changed. Mend that, or "
                "move it away to go on from an older one"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # a truncated zip raises a dozen kinds of errors
            problems[path] = f"does not load ({shortened(f'{type(error).__name__}: {error}')})"
    if problems:
        every = "; ".join(f"{path.name} {problem}" for path, problem in problems.items())
        raise UserError(
            f"no checkpoint in {folder} loads, and nothing was changed: {every}. Put a copy back, or remove them to "
            "start anew"
        )
    return None, {}


def random_state() -> dict[str, Any]:
    """Returns the state of this process's generators."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts this process's generators where they were."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_encoder(encoder: Encoder, path: str | Path) -> None:
    """Writes an encoder's folder: model.safetensors, config.json, what its preprocessing needs, own code of files."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    for task, head in encoder.spaces.items():
        weights |= {f"spaces.{task}.{key}": value for key, value in head.state_dict().items()}
    config = {
        "format": FORMAT,
        "modality": encoder.modality,
        "field": encoder.preprocess.field,
        "dim": encoder.dim,
        "encoder": encoder.config(),
        "preprocess": encoder.preprocess.config(),
        "spaces": {task: {"kind": _kind(head), **head.config()} for task, head in encoder.spaces.items()},
    }
    config, code = own.gathered(config)
    for place, data in code.items():
        write_atomically(folder / place, data)
    save_weights(weights, folder / "model.safetensors")
    encoder.save_files(folder)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as a safetensors file, whole or not at all.

    safetensors' own `save_file` leaves a file of another name where it is killed, and lets nobody else read its files.
    """
    write_atomically(path, save({key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}))


def load_weights(
    module: nn.Module, path: Path, *, prefix: str = "", fits: str = "the architecture in config.json"
) -> None:
    """Loads a module strictly from the tensors under a prefix of a safetensors file; UserError if they do not fit.

    fits: what the module is, for that message.
    """
    if not path.is_file():
        raise UserError(f"there are no weights at {path}; expected a file that `mmssl train` wrote")
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own and OS errors
        raise UserError(f"{path} is damaged: {error}") from error
    own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    for key, value in module.state_dict().items():
        if key in own and (own[key].is_complex() or own[key].is_floating_point() != value.is_floating_point()):
            raise UserError(f"{path}: {prefix}{key} holds {own[key].dtype}; expected {value.dtype}")
        if key in own and own[key].sum().isnan() and own[key].isnan().any():
            raise UserError(f"{path}: {prefix}{key} holds what is no number; train again, with a lower lr")
    try:
        module.load_state_dict(own, strict=True)
    except Exception as error:  # RuntimeError, and what modules raise that look at what they are given
        detail = misfit(module, own) or " ".join(str(error).split())[:300]
        raise UserError(f"{path}: the weights do not fit {fits}: {detail}") from error


def read_heads(path: Path) -> dict[str, dict[str, Tensor]]:
    """Returns the weights of the heads that a safetensors file of an encoder's folder holds, by their spaces."""
    found: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  # it is no mapping
            kind, _, rest = key.partition(".")
            space, _, name = rest.partition(".")
            if kind == "spaces":
                found.setdefault(space, {})[name] = file.get_tensor(key)
    return found


def load_encoder(path: str | Path, *, device: str = "cpu", trust_code: bool = False) -> Encoder:
    """Loads an encoder from its folder: strict, offline, ready to `encode`.

    path: an encoder's folder, `runs/NAME/encoders/image`.
    trust_code: allow the folder to name code outside mmssl, and weights and files of elsewhere.
    Raises UserError for a folder that is no encoder's, is damaged, or whose weights do not fit.
    """
    folder = Path(path)
    config, where, file = read_config(folder), str(folder / "config.json"), folder / "model.safetensors"
    check_values(config, where)
    with as_user_error(f"{where} describes an encoder that cannot be built"), bounded(where, file, loaded=True):
        encoder = _build(folder, config, trust_code=trust_code)
    load_weights(encoder, file, prefix="encoder.")
    for task, built in encoder.spaces.items():
        load_weights(built, file, prefix=f"spaces.{task}.")
    return encoder.to(device).eval()


class Built(TypedDict):
    """What `Encoder.config` returns."""

    name: str
    options: dict[str, Any]


class _Kind(TypedDict, total=False):
    kind: str  # what folders say nothing about is a Projection


class Space(_Kind):
    """What a head's `config` returns, and which class it is; the other keys are the head's options."""

    dim: Positive


class _Config(TypedDict, total=False):
    field: str  # what folders say nothing about is the modality's


class Config(_Config):
    """What a config.json holds."""

    format: Literal[1]
    modality: str
    dim: Positive
    encoder: Built
    preprocess: dict[str, Any]
    spaces: dict[str, Space]


def read_config(folder: Path) -> Config:
    """Returns an encoder folder's config.json; UserError when there is none or it is of another format."""
    file = folder / "config.json"
    if not all(map(os.path.isfile, (file, folder / "model.safetensors"))):  # Path.is_file raises for a long name
        inside = sorted(p.name for p in folder.iterdir())[:8] if os.path.isdir(folder) else None  # noqa: PTH112
        found = "no such folder" if inside is None else f"it holds {', '.join(inside) or 'nothing'}"
        raise UserError(f"{folder} is no encoder folder ({found}); expected config.json and model.safetensors")
    found = read_json(file)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{file} is not of mmssl's format {FORMAT}; expected a folder that mmssl saved")
    config: Config = fit(found, Config, str(file))
    return config


def _build(folder: Path, config: Config, *, trust_code: bool) -> Encoder:
    """Builds the encoder of a config.json, and its heads, without their weights."""
    node, where = own.located(config["encoder"], folder), str(folder / "config.json")
    if not trust_code:
        refuse_fetching(node["name"], node["options"])
    encoder = create_encoder(node["name"], where=where, trust_code=trust_code, **node["options"])
    made, said = (encoder.modality, encoder.dim), (config["modality"], config["dim"])
    if made != said:
        found = f"modality and dim are {shortened(said)}; {shortened(node['name'])} has {made}"
        raise UserError(f"{where}: {found}; save the encoder again")
    encoder.load_files(folder)
    _restore_preprocess(encoder.preprocess, config["preprocess"], where=where)
    encoder.preprocess.field = config.get("field", "")
    encoder.spaces.clear()
    for task, head in config["spaces"].items():
        encoder.spaces[task] = _build_head(own.located(head, folder), trust_code=trust_code)
    with suppress(NotImplementedError):
        encoder.preprocess.blank()  # takes as much as what an input becomes
    return encoder


def _restore_preprocess(preprocess: Preprocess, values: Mapping[str, Any], *, where: str) -> None:
    """Gives a preprocessing the values that it was saved with; its declared fields and types are the schema."""
    known, hints = preprocess.config(), get_type_hints(type(preprocess), include_extras=True)
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: preprocess has no {shortened(key)}; {did_you_mean(key, known)}")
        fitted = fit(value, hints[key], f"{where}: preprocess.{key}")
        setattr(preprocess, key, fitted)
    if hasattr(preprocess, "__post_init__"):
        preprocess.__post_init__()  # what it derives from the values, and checks of them


def _kind(head: Head) -> str:
    """Names a head's class: plainly if it is mmssl's own, else by its path."""
    home = type(head).__module__
    return type(head).__name__ if home == HEADS else own.name_of(type(head)) or f"{home}:{type(head).__name__}"


def _build_head(node: Mapping[str, Any], *, trust_code: bool) -> Head:
    options = dict(node)
    kind = options.pop("kind", "Projection")  # what folders say nothing about is a Projection
    head, _ = names.resolve("heads", kind if "." in kind else f"{HEADS}:{kind}", trust_code=trust_code)
    return head(options.pop("dim"), **names.check_options(head, options))
