"""What a run's encoders begin with: weights of a run, of an encoder's folder, or of a file that authors published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl import dist
from mmssl.checkpoint import load_weights, read_config, read_heads
from mmssl.encoders.published import load_published
from mmssl.encoders.transformers import Transformers
from mmssl.errors import UserError
from mmssl.nn.misfit import misfit
from mmssl.nn.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from mmssl.schema import fit, read_json
from mmssl.types import Encoder, reading

TOWERS = ("clip", "siglip")  # whose one folder holds an encoder of images and one of texts


def start(encoders: Mapping[str, Encoder], given: str | Mapping[str, str]) -> set[str]:
    """Gives encoders the weights, and what their preprocessing learnt, of trained ones; returns which got some.

    given: for each encoder's key where they are; or one place for all that it has weights for.
    Raises UserError for a place that holds none, or none that fit.
    """
    if not isinstance(given, str):
        chosen = {key: (_of_run(Path(place), key), f"train.start.{key}") for key, place in given.items()}
    else:
        chosen = {key: (path, "train.start") for key, path in _for_all(encoders, Path(given)).items()}
    for key, (path, where) in chosen.items():
        try:
            _start_one(encoders[key], path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return {*chosen}


def _of_run(path: Path, key: str) -> Path:
    """Returns the folder of an encoder of a run, where the path is a run's; else the path itself."""
    return path / "encoders" / key if (path / "encoders").is_dir() else path


def _for_all(encoders: Mapping[str, Encoder], path: Path) -> dict[str, Path]:
    """Returns which encoders one place has weights for, and where."""
    if (path / "encoders").is_dir():
        saved = [folder.name for folder in sorted((path / "encoders").iterdir())]
        if found := {key: path / "encoders" / key for key in encoders if key in saved}:
            return found
        raise UserError(f"train.start: {path} has encoders {', '.join(saved)}; the run has {', '.join(encoders)}")
    kind = _kind(path)
    reads = read_config(path)["modality"] if kind == "ours" else None
    fitting = [key for key, encoder in encoders.items() if reads in (None, encoder.modality)]
    if kind in TOWERS:
        fitting = [key for key in fitting if isinstance(encoders[key], Transformers)]
    if len(fitting) == 1 or (kind in TOWERS and fitting):
        return dict.fromkeys(fitting, path)
    raise UserError(
        f"train.start is {path} and the run has encoders {reading(encoders)}; say which of them begins with it, as in "
        f"train.start.{next(iter(fitting or encoders))}={path}"
    )


def _kind(path: Path) -> str:
    """Returns "file", "ours", or the model type of a transformers folder; UserError for anything else."""
    if path.is_file():
        return "file"
    if (path / "config.json").is_file():
        config = fit(read_json(path / "config.json"), dict[str, Any], str(path / "config.json"))
        return "ours" if "format" in config else str(config.get("model_type", ""))
    raise UserError(
        f"there are no weights at {path}; expected a run's or an encoder's folder, a transformers one, or a file"
    )


def _start_one(encoder: Encoder, path: Path) -> None:
    kind = _kind(path)
    if kind == "file":
        load_published(encoder, path)
        _compare_statistics(encoder, path)
    elif kind == "ours":
        load_weights(encoder, path / "model.safetensors", prefix="encoder.", fits=f"the run's {encoder.name}")
        encoder.load_files(path)
        encoder.brought = read_heads(path / "model.safetensors")
    else:
        _take_over(encoder, path, kind)


def _take_over(encoder: Encoder, path: Path, kind: str) -> None:
    """Gives an encoder of transformers the weights, the tokenizer and the projection of a folder of its format."""
    if not isinstance(encoder, Transformers):
        raise UserError(f"{path} holds a {kind!r} of transformers, for which {encoder.name} has no place; name the "
                        f"encoder transformers:{path}")  # fmt: skip
    given = Transformers(str(path), modality=encoder.modality)  # type: ignore[arg-type]
    weights = given.state_dict()
    if difference := misfit(encoder, weights):
        raise UserError(f"{path} does not fit the run's {encoder.family}: {difference}")
    encoder.load_state_dict(weights)
    encoder.spaces.update(given.spaces)
    if encoder.modality == "text":
        given.preprocess.field = encoder.preprocess.field
        given.preprocess.context_length = min(given.preprocess.context_length, encoder.preprocess.context_length)
        encoder.preprocess = given.preprocess


def _compare_statistics(encoder: Encoder, path: Path) -> None:
    """Says once where images would be normalised otherwise than authors of pretrained images do."""
    own = getattr(encoder, "normalize", None)
    if encoder.modality != "image" or not isinstance(own, Normalize) or len(own.mean) != 3 or dist.rank():
        return
    mean, std = (tuple(round(value, 4) for value in values.tolist()) for values in (own.mean, own.std))
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        tqdm.write(
            f"{path}: weights of self-supervised learning are made for mean {IMAGENET_MEAN} and std {IMAGENET_STD}; "
            f"{encoder.name} has {mean} and {std}: say `mean` and `std` of the encoder"
        )
