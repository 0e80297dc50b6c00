"""A program of torch.export, which `torch.export.load` runs without mmssl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mmssl.errors import UserError
from mmssl.exports.described import describe
from mmssl.exports.plain import Plain, inputs_of, outputs_of, random_batch

FILE = "model.pt2"
SHOWN = 4  # samples of the batch that is traced


def write(plain: Plain, folder: Path) -> Any:
    """Writes model.pt2 and preprocess.json; the normalisation of images and videos is within."""
    program, inputs = traced(plain)
    torch.export.save(program, folder / FILE)
    outputs = outputs_of(plain, len(plain(*inputs.values())))
    describe(plain.encoder, folder, within=True, file=FILE, inputs=[*inputs], outputs=outputs)
    opened = torch.export.load(folder / FILE).module()
    return lambda x: opened(*inputs_of(x).values())


def traced(plain: Plain) -> tuple[ExportedProgram, dict[str, Tensor]]:
    """Returns the program for batches, and texts, of any size, and the inputs that it was traced with."""
    inputs = inputs_of(random_batch(plain.encoder, SHOWN))
    sizes: list[dict[int, Any]] = [{0: Dim.DYNAMIC} for _ in inputs]
    if plain.padded:
        sizes[0][1] = Dim.DYNAMIC
    try:
        return torch.export.export(plain, tuple(inputs.values()), dynamic_shapes=tuple(sizes)), inputs
    except Exception as error:  # each part of torch.export has its own
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"torch.export cannot trace {plain.encoder.name}: {detail}") from error
