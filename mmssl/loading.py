"""Loading what is judged: a run's encoders and objectives, an encoder's folder, or an encoder by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmssl import checkpoint, names, recipe
from mmssl.assembly import build_objective, pretexts
from mmssl.encoders import create_encoder, refuse_fetching
from mmssl.errors import UserError, as_user_error
from mmssl.nn.bounded import bounded, check_values
from mmssl.nn.head import Projection
from mmssl.run_folder import read_whole
from mmssl.schema import fit, read_json
from mmssl.types import Encoder, Joint, Objective, Trained

MODEL = "model"  # what options of an encoder that is made by its name are given under


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
    for encoder in encoders.values():  # a pretrained projection is of a shape that the recipe does not say
        head = encoder.spaces.get(key)
        encoder.joint = Joint("", head, head.embed_dim) if isinstance(head, Projection) else None
    with (
        as_user_error(f"{where} describes an objective that cannot be built"),
        bounded(where, file, *others, loaded=True),
    ):
        objective = build_objective(made, key, encoders)
    checkpoint.load_weights(objective, file)
    return objective


def open_encoders(
    path: str, options: Mapping[str, Any], *, device: str = "cpu", trust_code: bool = False
) -> dict[str, Encoder]:
    """Returns every encoder of a run, or the one that a folder or a name stands for, by its modality."""
    folder, name = Path(path), path
    if is_own(folder):
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


def is_own(folder: Path) -> bool:
    """Tells whether a folder is a run's, or that of an encoder which mmssl saved, however damaged."""
    if (folder / "encoders").is_dir() or not (folder / "model.safetensors").is_file():
        return (folder / "encoders").is_dir()
    try:
        return "format" in fit(read_json(folder / "config.json"), dict[str, Any], "it")
    except UserError:
        return True  # load_encoder tells what is wrong with it


def home_of(path: str) -> Path:
    """Returns where what is made of a model goes: a run's or an encoder's own folder, else one under runs."""
    return Path(path) if is_own(Path(path)) else Path("runs") / path.strip("/").replace("/", "_").replace(":", "_")


def _published(name: str, trust_code: bool) -> dict[str, Any]:
    """Returns the options by which a model that is known by name gets the weights that it is known for."""
    kind, variant = names.resolve("encoders", name, trust_code=trust_code)
    published = {"pretrained": True, "weights": "DEFAULT"} if variant else {}
    return {key: value for key, value in published.items() if key in names.options_of(kind)}
