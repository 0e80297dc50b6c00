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
    from mmssl.features.dedupe import near_duplicates
    from mmssl.features.encode import encode_data
    from mmssl.features.files import read_features
    from mmssl.features.search import search
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
    "near_duplicates": "mmssl.features.dedupe",
    "encode_data": "mmssl.features.encode",
    "read_features": "mmssl.features.files",
    "search": "mmssl.features.search",
    "train": "mmssl.loop",
    "evaluate": "mmssl.judge",
    "export": "mmssl.exports.checked",
    "from_pretrained": "mmssl.exports.hub",
    "push_to_hub": "mmssl.exports.hub",
}
__all__ = [
    "create_encoder",
    "encode_data",
    "evaluate",
    "export",
    "from_pretrained",
    "list_names",
    "load_encoder",
    "near_duplicates",
    "push_to_hub",
    "read_features",
    "save_encoder",
    "search",
    "train",
    "zero_shot_classifier",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmssl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
