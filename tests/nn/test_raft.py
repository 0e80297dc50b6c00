"""RAFT is torchvision's: between each image and the next, extended to the sizes that it reads, and never trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_small

from mmssl.errors import UserError
from mmssl.nn import raft
from mmssl.nn.raft import Raft


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(2)
    return raft_small(weights=None).eval()


def test_flow_is_torchvisions(theirs: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(theirs.state_dict(), tmp_path / "raft.pth")
    save_file(theirs.state_dict(), tmp_path / "raft.safetensors")
    images = torch.randint(0, 256, (1, 3, 3, 44, 132), dtype=torch.uint8)
    expected = []
    for step in range(2):
        pair = [F.pad(images[:, :, step + n].float() / 127.5 - 1, (0, 4, 0, 84), mode="replicate") for n in (0, 1)]
        with torch.no_grad():
            expected.append(theirs(*pair)[-1][:, :, :44, :132])
    monkeypatch.setattr(raft, "AT_ONCE", 1)  # one pair at a time
    for name in ("raft.pth", "raft.safetensors"):
        made = Raft("small")
        made.load(str(tmp_path / name))
        made.train()
        assert not made.net.training and not any(p.requires_grad for p in made.parameters())
    found = made(images)
    assert found.shape == (1, 2, 2, 44, 132) and not found.requires_grad
    torch.testing.assert_close(found, torch.stack(expected, dim=2), rtol=1e-4, atol=1e-4)


def test_weights_that_are_none_of_its_are_refused(theirs: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no weights of RAFT at"):
        Raft("small").load(str(tmp_path / "none.pth"))
    torch.save(theirs.state_dict(), tmp_path / "raft.pth")
    with pytest.raises(UserError, match="holds no weights of torchvision's raft_large"):
        Raft("large").load(str(tmp_path / "raft.pth"))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no weights of torchvision's raft_small"):
        Raft("small").load(str(tmp_path / "bad.pth"))
