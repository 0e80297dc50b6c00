"""The methods without negatives are about instances of any modality."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmssl import names
from mmssl.encoders import create_encoder

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SETTINGS, plain


@pytest.mark.parametrize("name", ["byol", "simsiam", "directpred", "dino", "moby", "barlow_twins", "vicreg"])
def test_they_are_about_instances_of_any_modality(name: str) -> None:
    kind, options = ENCODERS["audio"]
    encoders = {"audio": create_encoder(kind, **options)}
    method = names.resolve("methods", name)[0]
    method.view({"audio": encoders["audio"].preprocess}, **({"small": None} if name == "dino" else {}))
    total = method.objective(encoders, **SETTINGS[name].options)(encoders, plain(("audio",), 4, views=2)).total
    total.backward()
    assert total.isfinite()
