"""What a step leaves behind does not depend on the parts in which its batch was shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from settings import SETTINGS, batch, build, pick

NEEDED = {  # the state that a step's batch enters
    "cmc": "banks.image.rows",
    "deepcluster:v2": "banks.0.rows",
    "depthcontrast": "queues.points.rows",
    "dino": "centre",
    "directpred": "correlation",
    "moby": "queues.0.rows",
    "moco": "queue.rows",
    "npid": "bank.rows",
    "pcl": "queue.rows",
    "pirl": "bank.rows",
    "swav": "queues.0.rows",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_parts_of_a_batch_leave_what_the_whole_leaves(name: str) -> None:
    whole, parts = build(name), build(name)
    before = {key: value.clone() for key, value in whole.objectives[name].state_dict().items()}
    shown = batch(name)
    whole({name: shown})
    for rows in torch.arange(8).split([3, 5]):
        parts({name: pick(shown, rows)})
    for model in (whole, parts):
        model.objectives[name].after_step(model.named_encoders, 0.5)
    found, expected = (model.objectives[name].state_dict() for model in (parts, whole))
    for key, value in expected.items():
        if not key.endswith("log_z"):  # estimated on the first part
            torch.testing.assert_close(found[key], value, msg=lambda m, k=key: f"{k}: {m}")
    if name in NEEDED:
        key, (objective, encoders) = NEEDED[name], (parts.objectives[name], parts.named_encoders)
        assert not torch.equal(found[key], before[key])
        left = found[key].clone()
        objective.after_step(encoders, 0.5)
        assert torch.equal(objective.state_dict()[key], left), "nothing is left for the next step"
