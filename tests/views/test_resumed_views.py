"""Every View, with every option that draws, shows after a resume what it would have shown: streams compared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mmssl import names
from mmssl.assembly import TaskStream
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.encoders import create_encoder
from mmssl.modalities.video import encode
from mmssl.transforms.base import step_name
from mmssl.types import Batch, Method, Preprocess, Ragged, merged
from mmssl.views.template import Views

IMAGE: dict[str, Any] = {
    "crop": {"scale": (0.3, 0.9), "ratio": (0.75, 1.33)},
    "flip": {"p": 0.5},
    "color_jitter": {"p": 0.8},
    "grayscale": {"p": 0.3},
    "blur": {"p": 0.5},
    "solarize": {"p": 0.3},
}
STEPS: dict[str, dict[str, Any]] = {  # by modality; those that a view has not are added
    "image": IMAGE
    | {
        "rotate": {"degrees": 20.0},
        "rand_augment": {},
        "random_affine": {"degrees": 9.0},
        "tone_curves": {"knots": 3},
        "few_tones": {"levels": (2, 4)},
        "shading": {"cells": 3},
        "contour": {"width": 2},
        "pixelate": {"size": (1.5, 3.0)},
    },
    "video": IMAGE,
    "audio": {
        "speed": {"factor": (0.8, 1.2)},
        "gain": {"decibels": 6.0},
        "noise": {"power": 0.5},
        "time_mask": {"share": 0.3},
        "frequency_mask": {"octaves": 3.0},
        "mix": {"most": 0.5},
    },
    "points": {
        "crop": {"share": (0.5, 0.9)},
        "hole": {"share": 0.2},
        "rotate": {"axis": "any"},
        "mirror": {"p": 0.5},
        "scale": {"factor": (0.8, 1.2)},
        "jitter": {"sigma": 0.01},
        "voxels": {"size": 0.1},
        "feature_noise": {"sigma": 0.1},
        "feature_drop": {"p": 0.5},
    },
}
DRAWING: dict[str, Any] = {  # of View classes
    "feature_noise": 0.1,
    "hard": 1.0,
    "easy_until": 0.6,
}
SAID = [{"text": str(second), "start": second, "end": second + 1} for second in range(4)]
TEXTS = {"text": ["a", "b", "c"], "subtitles": SAID}
ALL = ("image", "video", "audio", "points", "text")
FILMS = ("color_tracking", "odd_one_out", "opn", "shuffle_and_learn")
SHOWN: dict[str, tuple[str, ...]] = {  # by file; the rest show images
    **dict.fromkeys(FILMS, ("video",)),
    **dict.fromkeys(("avts", "synchronised"), ("video", "audio")),
    **dict.fromkeys(("cloud_pair", "depthcontrast"), ("points",)),
    "single": ALL,
    **dict.fromkeys(("captioned", "icmlm"), ("image", "text")),
    "subtitled": ("video", "text"),
    "frame_and_flow": ("image", "flow"),
    "split_brain": ("image", "image_ab"),
    "cmc": ("image", "image_ab"),
    "beit": ("image", "image_tokenizer"),
    "bownet": ("image", "image_words"),
}
OWN: dict[str, dict[str, Any]] = {
    "cloud_pair": {"pair": "crops", "crop": (0.7, 0.9), "min_points": 10, "overlap": 0.1},
    "single": {"views": 2},
    "avts": {"hard": 1.0, "easy_until": 0.4, "rise": 0.5, "speed": (0.7, 1.3)},
    "synchronised": {"speed": (0.7, 1.3)},
    "shuffle_and_learn": {"video": {"order_verification": {"span": (0.4, 1.0), "outside": (0.2, 0.6)}}},
}


def kinds() -> dict[str, Any]:
    """Returns file -> template or View class, each once."""
    found: dict[str, Any] = {}
    for room in ("views", "methods"):
        for name in names.list_names(room):
            made = names.resolve(room, name)[0]
            view = made.view if isinstance(made, Method) else made
            if not any(view is known for known in found.values()):
                found[name] = view
    return found


def drawing(name: str, keys: Sequence[str]) -> dict[str, Any]:
    """Returns options under which all draws that a view can do are done."""
    view, own = kinds()[name], OWN.get(name, {})
    if not isinstance(view, Views):
        return names.check_options(view, {k: v for k, v in DRAWING.items() if k in names.options_of(view)} | own)
    options: dict[str, Any] = {key: dict(steps) for key, steps in STEPS.items() if key in keys}
    for key in options.keys() & view.modalities.keys():
        for step in view.modalities[key]:
            for each in fields(step):  # those of several views stay as they are
                if isinstance(getattr(step, each.name), tuple) and each.name == "p":
                    options[key].pop(step_name(type(step)), None)
    return merged(options, own)


@pytest.fixture(scope="module")
def preprocess() -> Mapping[str, Preprocess]:
    picture = {"name": "convnet", "image_size": 32, "widths": [4], "depths": [1]}
    encoders = {
        "image": create_encoder(**picture),
        "video": create_encoder("frames", frames=2, fps=5.0, temporal=1, image={**picture, "image_size": 16}),
        "audio": create_encoder(
            "spectrogram", seconds=0.4, sample_rate=8000, mels=16, window=0.02, backbone={**picture, "in_channels": 1}
        ),
        "points": create_encoder("pointnet", points=64),
        "flow": create_encoder("flow", frames=3, fps=5.0, backbone=picture),
        "text": create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280),
    }
    encoders["text"].learn_preprocess(["one", "two"])
    made = {key: encoder.preprocess for key, encoder in encoders.items()}
    return made | dict.fromkeys(("image_ab", "image_tokenizer", "image_words"), made["image"])


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples that have everything."""
    folder, noise = tmp_path_factory.mktemp("everything"), np.random.default_rng(0)
    with webdataset.TarWriter(str(folder / "all.tar")) as writer:
        for number in range(8):
            png, npy = io.BytesIO(), io.BytesIO()
            Image.fromarray(noise.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(png, "PNG")
            np.save(npy, noise.normal(size=(200, 3)).astype(np.float32))
            film = noise.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
            film = encode(film, fps=5.0, audio=noise.uniform(-0.5, 0.5, 32_000), sample_rate=8000)
            fields = {
                "png": png.getvalue(),
                "mp4": film,
                "npy": npy.getvalue(),
                "json": TEXTS,
            }
            writer.write({"__key__": f"{number}", **fields})
    return folder / "all.tar"


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    views = {f"{key}.{number}": x for key, shown in batch.views.items() for number, x in enumerate(shown)}
    ragged = {key: x for key, x in views.items() if isinstance(x, Ragged)}
    views |= {key: x.values for key, x in ragged.items()} | {f"{key}.lengths": x.lengths for key, x in ragged.items()}
    views |= {f"{key}.place.{number}": x for key, found in batch.places.items() for number, x in enumerate(found)}
    return views | batch.extra | ({} if batch.target is None else {"target": batch.target})


@pytest.mark.parametrize("name", kinds())
def test_a_view_goes_on_where_it_was(name: str, preprocess: Mapping[str, Preprocess], samples: Path) -> None:
    kind, keys = kinds()[name], SHOWN.get(name, ("image",))
    if "flow" in keys:
        pytest.importorskip("cv2")
    options = drawing(name, keys)

    def stream(resume: dict[str, Any] | None = None) -> TaskStream:
        view = kind({key: preprocess[key] for key in keys}, **options)
        source = Source(
            shards=str(samples),
            fields={key: f"json.{key}" for key in ("text", "subtitles") if key in view.reads} or None,
        )
        return TaskStream(Loader(source, view, batch=2, seed=1, workers=0, max_damaged=0.0), view, resume)

    whole, device = stream(), torch.device("cpu")
    shown = [tensors(whole.next(device, progress=step / 3)) for step in range(3)]
    part = stream()
    part.next(device, progress=0.0)
    torch.manual_seed(99)
    rest = stream(part.loader.state())
    for step in range(1, 3):
        found = tensors(rest.next(device, progress=step / 3))
        assert found.keys() == shown[step].keys()
        for key, value in found.items():
            assert torch.equal(value, shown[step][key]), key
