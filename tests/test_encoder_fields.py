"""What an encoder reads may be said: `left: {name: convnet, modality: image, field: second}`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mmssl import assembly, create_encoder, load_encoder, recipe, save_encoder
from mmssl.errors import UserError
from mmssl.methods.split_brain import SplitBrain

SMALL = {"image_size": 16, "widths": [8], "depths": [1], "stem_stride": 2}
METHOD = '''
"""CMC on two cameras."""
from mmssl.methods.cmc import CMC
from mmssl.types import Method, View

class Cameras(View):
    """Shows each encoder its own field."""

    def __init__(self, preprocess):
        super().__init__(preprocess)
        self.reads = tuple(each.field for each in preprocess.values())

    def __call__(self, sample):
        return {key: [each(sample[each.field])] for key, each in self.preprocess.items()}

method = Method(Cameras, CMC)
'''


@pytest.fixture
def two_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns a recipe of eight samples whose first image is dark and whose second, `second.png`, is bright."""
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "both.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    with webdataset.TarWriter(str(tmp_path / "part-0.tar")) as writer:
        for number in range(8):
            sample: dict[str, Any] = {"__key__": f"{number}"}
            for field, shade in (("png", 10 + number), ("second.png", 200 + number)):
                stream = io.BytesIO()
                Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(stream, format="PNG")
                sample[field] = stream.getvalue()
            writer.write(sample)
    encoder = {"name": "convnet", "modality": "image", **SMALL}
    data = {"shards": str(tmp_path / "part-0.tar"), "workers": 0}
    method = {"name": "cameras.both:method", "objective": {"embed_dim": 4, "negatives": None}}
    return {
        "encoders": {"left": {**encoder, "field": "image"}, "right": {**encoder, "field": "second"}},
        "tasks": {"cmc": {"data": data, "method": method, "batch": 8}},
        "train": {"samples": 8},
    }


def test_each_encoder_sees_the_field_that_its_node_names(two_cameras: dict[str, Any], tmp_path: Path) -> None:
    checked = recipe.check(two_cameras)
    cpu = torch.device("cpu")
    model, streams = assembly.assemble(checked, tmp_path, device=cpu, resume=None)
    batch = streams["cmc"].next(cpu)
    assert batch.views["left"][0].max() <= 17 and batch.views["right"][0].min() >= 200
    total, _ = model({"cmc": batch})
    assert total.isfinite() and model.named_objectives["cmc"].uses == ("left", "right")
    streams["cmc"].close()
    save_encoder(model.named_encoders["right"], tmp_path / "right")
    loaded = load_encoder(tmp_path / "right")
    assert (loaded.modality, loaded.preprocess.field) == ("image", "second")
    assert create_encoder("convnet", **SMALL).preprocess.field == "image", "by default its modality's"


def test_what_folders_say_nothing_about_is_the_modalitys_field(tmp_path: Path) -> None:
    save_encoder(create_encoder("convnet", **SMALL), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("field") == "image"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_encoder(tmp_path).preprocess.field == "image"


@pytest.mark.parametrize(
    ("key", "node", "said"),
    [
        ("left", {}, "encoders.left: 'convnet' reads image; list it under 'image', or say modality: image"),
        ("image", {"modality": "text"}, "encoders.image: 'convnet' reads image; list it under 'image', or say"),
        ("image", {"field": 3}, "encoders.image: field is 3; expected str | None"),
        ("image", {"modality": ["image"]}, r"encoders.image: modality is \['image'\]; expected str | None"),
    ],
)
def test_what_does_not_fit_is_refused(key: str, node: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        assembly.build_encoder(key, {"name": "convnet", **SMALL, **node})


def test_the_key_says_what_the_node_does_not() -> None:
    for key, node in (("image_ab", {}), ("image", {"modality": "image"}), ("x", {"modality": "image"})):
        made = assembly.build_encoder(key, {"name": "convnet", **SMALL, **node})
        assert (made.modality, made.preprocess.field) == ("image", "image")


def test_an_option_that_the_encoder_has_too_goes_to_both() -> None:
    node = {"name": "transformers", "modality": "text", "field": "caption", "architecture": {}}
    shared, rest = recipe.split_encoder(node, where="encoders.caption")
    assert (shared.modality, shared.field) == ("text", "caption")
    assert rest == {"name": "transformers", "modality": "text", "architecture": {}}


def test_split_brain_asks_what_encoders_read_not_what_they_are_called() -> None:
    nets = {
        "sound": create_encoder("raw:audio"),
        "left": create_encoder("convnet", **SMALL),
        "right": create_encoder("convnet", **SMALL),
    }
    made = SplitBrain(nets, bins=3, neighbors=1, lightness_bins=7, widths=(4,))
    assert made.uses == ("left", "right") and made.asked == {"left": "colors", "right": "lightness"}
    assert {key: [*decoder.parameters()][-1].shape[0] for key, decoder in made.decoders.items()} == {
        "left": 3,
        "right": 7,
    }
    with pytest.raises(UserError, match=r"two encoders of images; the run has sound \(of audio\), left \(of image\)$"):
        SplitBrain({key: nets[key] for key in ("sound", "left")})
