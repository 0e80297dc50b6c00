"""An ONNX graph with a batch of any size, which onnxruntime runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmssl.exports.described import describe
from mmssl.exports.plain import Plain, inputs_of, outputs_of
from mmssl.exports.torch import traced

FILE = "model.onnx"


def write(plain: Plain, folder: Path) -> Any:
    """Writes model.onnx and preprocess.json; the normalisation of images and videos is within."""
    import onnxruntime

    program, inputs = traced(plain)
    outputs = outputs_of(plain, len(plain(*inputs.values())))
    names = {"input_names": [*inputs], "output_names": outputs}
    made = torch.onnx.export(program, (), dynamo=True, external_data=False, verbose=False, **names)  # type: ignore[arg-type]
    made.save(str(folder / FILE))  # type: ignore[union-attr]
    describe(plain.encoder, folder, within=True, file=FILE, inputs=[*inputs], outputs=outputs)
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def run(x: Any) -> list[torch.Tensor]:
        given = {name: value.numpy() for name, value in inputs_of(x).items()}
        return [torch.from_numpy(value) for value in session.run(outputs, given)]

    return run
