"""An encoder written for another library, opened with it, and compared on a random batch before it counts."""

from __future__ import annotations

import importlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError, as_user_error, did_you_mean
from mmssl.exports.plain import Plain, inputs_of, random_batch
from mmssl.types import Encoder

Run = Callable[[Any], Sequence[Tensor]]  # what the other library makes of a batch that `preprocess` collated
FORMATS = ("timm", "torchvision", "transformers", "onnx", "torch")
TOLERANCE = 1e-5
SIZES = (3, 2)  # of the batches that are compared; those that exporters are shown have another


def export(encoder: Encoder, out: str | Path, *, format: str, space: str | None = None) -> float:
    """Writes an encoder into a new folder so that a library opens it; returns the largest difference of its outputs.

    format: timm, torchvision, transformers, onnx or torch (a program of torch.export).
    space: the joint embedding of that task in place of the features; for onnx and torch.
    Raises UserError, and leaves no folder, where the format has no place for the encoder, where its library is not
    installed, and where what it opens differs by more than 1e-5 of the largest number.
    """
    folder = Path(out)
    if folder.exists():
        raise UserError(f"{folder} is there already; name a new folder, or remove it")
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}; {did_you_mean(format, FORMATS)}")
    if space is not None and space not in encoder.spaces:
        raise UserError(
            f"this {encoder.modality} encoder has no space {space!r}; {did_you_mean(space, encoder.spaces)}"
        )
    if space is not None and format not in ("onnx", "torch"):
        raise UserError(f"{format} has no place for the space {space!r}; export it as onnx or torch, or leave it out")
    encoder = encoder.cpu().eval()
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        difference = _write_and_compare(encoder, temporary, format, space)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def _write_and_compare(encoder: Encoder, folder: Path, format: str, space: str | None) -> float:
    try:
        module = importlib.import_module(f"mmssl.exports.{format}")
        with torch.no_grad(), _quiet():
            plain = Plain(encoder, space).eval()
            run = module.write(plain, folder)
            return max(_difference(plain, run, random_batch(encoder, size, seed=size), format) for size in SIZES)
    except ModuleNotFoundError as error:
        raise UserError(f"the format {format} needs the package {error.name!r}: pip install 'mmssl[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what other libraries tell of each other, and torch.export's pages on what it cannot trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _difference(plain: Plain, run: Run, x: Any, format: str) -> float:
    """Returns how far the library's outputs lie from ours; UserError where that is further than rounding goes."""
    with as_user_error(f"what {format} opened does not run"):
        theirs = run(x)
    ours = plain(*inputs_of(x).values())
    worst = 0.0
    for a, b in zip(ours, theirs, strict=False):  # libraries of models give the pooled features alone
        if a.shape != b.shape:
            raise UserError(
                f"opened as {format} it gives {tuple(b.shape)} in place of {tuple(a.shape)}; nothing is kept"
            )
        difference = float((a - b).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(a.abs().max())):
            raise UserError(
                f"opened as {format} its outputs differ by {difference:.2g}; expected at most {TOLERANCE:.0e} of the "
                "largest; nothing is kept"
            )
        worst = max(worst, difference)
    return worst
