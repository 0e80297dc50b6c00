"""mmssl: self-supervised learning on images, video, audio, point clouds and text.

The public face; what it names is imported when it is first used, so `import mmssl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmssl.checkpoint import load_encoder, save_encoder
    from mmssl.encoders import create_encoder
    from mmssl.evals.parts.classifier import zero_shot_classifier
    from mmssl.exports.checked import export
    from mmssl.exports.hub import from_pretrained, push_to_hub
    from mmssl.judge import evaluate
    from mmssl.loop import train
    from mmssl.names import list_names

__version__ = "0.1.0"

_HOMES = {
    "load_encoder": "mmssl.checkpoint",
    "save_encoder": "mmssl.checkpoint",
    "create_encoder": "mmssl.encoders",
    "list_names": "mmssl.names",
    "zero_shot_classifier": "mmssl.evals.parts.classifier",
    "train": "mmssl.loop",
    "evaluate": "mmssl.judge",
    "export": "mmssl.exports.checked",
    "from_pretrained": "mmssl.exports.hub",
    "push_to_hub": "mmssl.exports.hub",
}
__all__ = [
    "create_encoder",
    "evaluate",
    "export",
    "from_pretrained",
    "list_names",
    "load_encoder",
    "push_to_hub",
    "save_encoder",
    "train",
    "zero_shot_classifier",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmssl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
