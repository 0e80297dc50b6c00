"""What the encoder of flow gives its image encoder, and how it keeps RAFT's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_small

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.parts.untrained import untrained

BACKBONE = {"name": "convnet", "image_size": 16, "widths": [4], "depths": [1]}


def test_steps_in_time_are_channels_whose_mean_is_taken_away() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3, 16, 16) + 5
    for centre in (True, False):
        encoder = create_encoder("flow", frames=3, fps=8.0, centre=centre, backbone=BACKBONE).eval()
        channels = [x[:, direction, step] for step in range(3) for direction in range(2)]
        if centre:
            channels = [channel - channel.mean(dim=(1, 2), keepdim=True) for channel in channels]
        expected = encoder.backbone(torch.stack(channels, dim=1))
        found = encoder(x)
        torch.testing.assert_close(found.pooled, expected.pooled)
        torch.testing.assert_close(found.tokens, expected.tokens)
        assert found.grid == expected.grid
    preprocess = encoder.preprocess
    assert (preprocess.size, preprocess.frames, preprocess.fps, preprocess.by) == (16, 3, 8.0, "dis")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="in_channels 3; leave it out, 2 frames say it"):
        create_encoder("flow", frames=2, backbone=BACKBONE | {"in_channels": 3})
    with pytest.raises(UserError, match="set by to raft_small or raft_large"):
        create_encoder("flow", weights="raft.pth", backbone=BACKBONE)
    with pytest.raises(UserError, match="set weights to a file of them"):
        encoder = create_encoder("flow", by="raft_small", frames=1, backbone=BACKBONE)
        encoder(torch.zeros(1, 3, 2, 16, 16, dtype=torch.uint8))


def test_rafts_weights_are_saved_with_it_and_are_no_random_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    options = {"by": "raft_small", "weights": str(tmp_path / "raft.pth"), "frames": 1, "backbone": BACKBONE}
    encoder = create_encoder("flow", **options).eval()
    assert encoder.preprocess.by == "raft" and type(encoder).fetches(options) == f"the weights {options['weights']}"
    assert type(encoder).fetches({}) == "" and "weights" not in encoder.config()["options"]
    x = torch.randint(0, 256, (1, 3, 2, 16, 16), dtype=torch.uint8)
    expected = encoder(x)
    flow = encoder.raft(x)
    inner = encoder.backbone((flow - flow.mean(dim=(3, 4), keepdim=True)).transpose(1, 2).flatten(1, 2))
    torch.testing.assert_close(expected.pooled, inner.pooled)
    save_encoder(encoder, tmp_path / "saved")
    (tmp_path / "raft.pth").unlink()
    torch.testing.assert_close(load_encoder(tmp_path / "saved")(x).pooled, expected.pooled)
    fresh = untrained(encoder, seed=5)
    torch.testing.assert_close(fresh.raft(x), flow)
    assert not torch.equal(fresh(x).pooled, expected.pooled)
