"""A new modality, and a new method, are one new file each: nothing else has to know of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from mmssl import load_encoder, train
from mmssl.data.collate import collate
from mmssl.errors import UserError
from mmssl.judge import load_run
from mmssl.types import Trained

MODALITY = '''
"""A pulse of sixteen numbers."""
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from mmssl.errors import DamagedError
from mmssl.types import Encoder, Features, Preprocess

@dataclass
class PulsePreprocess(Preprocess):
    modality: ClassVar[str] = "pulse"
    gain: float = 1.0

    def __call__(self, raw):
        values = torch.as_tensor(raw, dtype=torch.float32)
        if values.shape != (16,):
            raise DamagedError("a pulse of another length")
        return values * self.gain

    def blank(self):
        return torch.zeros(16)

class Pulse(Encoder):
    modality = "pulse"

    def __init__(self, *, dim: int = 16) -> None:
        super().__init__()
        self.dim, self.preprocess = dim, PulsePreprocess()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, dim))

    def forward(self, x):
        return Features(self.layers(x))

encoder = Pulse
'''

METHOD = '''
"""Says which of four quarters of a pulse was doubled; learns its threshold from the stream."""
import torch
from torch import nn
from mmssl.types import Loss, Method, Objective, View

class Doubled(View):
    def __call__(self, sample):
        pulse = self.preprocess["pulse"](sample["pulse"]).clone()
        quarter = torch.randint(4, ())
        pulse[quarter * 4 : quarter * 4 + 4] *= 4
        return {"pulse": [pulse], "target": quarter, "extra": {"strength": pulse.abs().mean()}}

class WhichQuarter(Objective):
    modalities = ("pulse",)

    def __init__(self, encoders, *, classes: int = 4) -> None:
        super().__init__(encoders)
        self.head = nn.Linear(encoders["pulse"].dim, classes)
        self.register_buffer("strength", torch.zeros(()))

    def before_epoch(self, encoders, epoch):
        if epoch.number == 0:
            self.strength.fill_(next(epoch.batches()).extra["strength"].mean())

    def forward(self, encoders, batch):
        scores = self.head(encoders["pulse"](batch.views["pulse"][0] / self.strength).pooled)
        losses = nn.functional.cross_entropy(scores, batch.target, reduction="none")
        return Loss(losses.mean(), answers={"correct": (scores.argmax(1) == batch.target).float()})

method = Method(Doubled, WhichQuarter)
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the new method, and of CLIP between the new modality and text, on shards with a field pulse.npy."""
    place = tmp_path_factory.mktemp("toys")
    (place / "toys").mkdir()
    (place / "toys" / "pulse.py").write_text(MODALITY)
    (place / "toys" / "quarter.py").write_text(METHOD)
    random = np.random.default_rng(0)
    with webdataset.TarWriter(str(place / "0.tar")) as writer:
        for number in range(64):
            kind = number % 4
            values = np.roll(np.linspace(1, 2, 16), 4 * kind) + random.normal(0, 0.05, 16)
            values = values[: 8 if number == 5 else 16]
            stream = io.BytesIO()
            np.save(stream, values.astype(np.float32))
            writer.write({"__key__": f"{number:03d}", "pulse.npy": stream.getvalue(), "txt": f"kind {kind}"})
    data = {"shards": str(place / "0.tar"), "workers": 0}
    recipe = {
        "name": "toys",
        "encoders": {
            "pulse": {"name": "toys.pulse:encoder"},
            "text": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 270},
        },
        "tasks": {
            "quarter": {"data": data, "method": {"name": "toys.quarter:method"}, "batch": 16},
            "clip": {"data": data, "method": {"name": "clip", "objective": {"embed_dim": 8}}, "batch": 16},
        },
        "optim": {"name": "adamw", "lr": 0.01},
        "train": {"samples": 1600, "log_every": 5},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield train(recipe, out=place / "run", progress=False)


def test_both_learn_and_damaged_samples_of_the_new_modality_are_counted(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for task in ("quarter", "clip"):
        assert lines[-1][f"{task}/loss"] < 0.7 * lines[0][f"{task}/loss"], task
    report = json.loads((run / "data_report.json").read_text())
    assert report["quarter"]["damaged"]["a pulse of another length"]


def test_the_saved_run_can_be_asked_again(run: Path) -> None:
    with pytest.raises(UserError, match="--trust-code"):
        load_run(run)
    trained = load_run(run, trust_code=True)
    assert isinstance(trained, Trained)
    quarter = trained.task("quarter")
    assert float(quarter.objective.strength) > 1, "what was learnt from the stream is saved"
    view = quarter.show(trained.encoders)
    shown = [view({"pulse": np.linspace(1, 2, 16)}) for _ in range(64)]
    correct = quarter.objective(trained.encoders, collate(shown, view)).answers["correct"]
    assert correct.mean() > 0.5
    encoder = load_encoder(run / "encoders" / "pulse", trust_code=True)
    assert encoder.encode([np.ones(16)], space="clip").shape == (1, 8)
    assert torch.equal(encoder.preprocess(np.ones(16)), torch.ones(16))
