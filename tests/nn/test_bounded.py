"""What building asks of torch is counted before it is there."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmssl.errors import UserError
from mmssl.limits import VARIABLE
from mmssl.nn.bounded import bounded, check_values

N = 2**18  # numbers of 4 bytes, 2**20 bytes
LARGE = torch.ones(N + 1)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"network_slack={2**20},network_parts=50,network_values=20,network_option=1000")


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(2**20, 2**20),
        lambda: torch.zeros(N + 1),
        lambda: [torch.zeros(N // 2), torch.zeros(N // 2 + 1)],
        lambda: torch.full((N, 2), 1.0),
        lambda: torch.empty(2**20, 2**20, 2**20),
        lambda: torch.arange(0, 1, 2.0**-50),
        lambda: torch.eye(2**17),
        lambda: torch.ones(2**16)[:, None] * torch.ones(2**16),
        lambda: torch.ones(2, 3).repeat(2**20, 2**20),
        lambda: torch.ones(1, 1, 4, 4).new_zeros(2**40),
        lambda: torch.nn.functional.interpolate(torch.ones(1, 1, 4, 4), (2**20, 2**20)),
        lambda: [copy.deepcopy(each) for each in [nn.Parameter(torch.ones(N // 3))] * 5],
        lambda: copy.deepcopy(LARGE),
        lambda: torch.cat([torch.ones(1, 1).expand(2**20, 2**20)] * 2),
    ],
)
def test_what_exceeds_the_limit_is_refused_before_it_is_made(build: Callable[[], object]) -> None:
    with (
        pytest.raises(UserError, match=r"here: the network .* more than its weights on disk, .* bytes"),
        bounded("here"),
    ):
        build()


def test_what_is_at_the_limit_is_made() -> None:
    with bounded("here"):
        whole = torch.zeros(N // 2), torch.full((N // 4,), 3.0), torch.zeros(N // 4, dtype=torch.int32)
    assert [len(part) for part in whole] == [N // 2, N // 4, N // 4] and whole[1][0] == 3


def test_layers_are_counted_however_small() -> None:
    with bounded("here"):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(25)))  # two tensors each
    with pytest.raises(UserError, match="51 tensors; the limit is network_parts=50"), bounded("here"):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(26)))


def test_weights_on_disk_speak_for_four_times_as_much_and_twenty_times_as_many(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(N), "b": torch.zeros(1)}, file)
    size = file.stat().st_size
    with bounded("here", file):
        torch.zeros(size + N)  # 4 bytes each
    with pytest.raises(UserError, match="bytes"), bounded("here", file):
        torch.zeros(size + N + 1)
    with bounded("here", file):
        assert len([torch.zeros(1) for _ in range(2 * 20 + 50)]) == 90
    with pytest.raises(UserError, match="91 tensors"), bounded("here", file):
        assert [torch.zeros(1) for _ in range(91)]


def test_parameters_that_are_loaded_next_are_zeros_and_nothing_else_is() -> None:
    with bounded("here", loaded=True):
        layer, draw = nn.Linear(8, 8), torch.empty(8).uniform_(1, 2)
        normal = nn.init.trunc_normal_(nn.Parameter(torch.empty(8)))
    assert isinstance(normal, nn.Parameter) and not normal.any()
    assert not layer.weight.any() and not layer.bias.any() and (draw >= 1).all()
    with bounded("here"):
        assert nn.Linear(8, 8).weight.any()


def test_files_are_judged_by_their_header(tmp_path: Path) -> None:
    for data in (b"", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(UserError, match="x.safetensors is damaged"), bounded("here", tmp_path / "x.safetensors"):
            pass
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(UserError, match="x.safetensors is damaged"), bounded("here", tmp_path / "x.safetensors"):
        pass
    with pytest.raises(UserError, match="there are no weights at"), bounded("here", tmp_path / "y.safetensors"):
        pass


def test_numbers_are_found_at_any_depth() -> None:
    check_values({"a": [{"b": (1, 1000, -1000, 1e30, True, "5000")}]}, "here")
    for value in (1001, -1001, 10**400):
        with pytest.raises(UserError, match=r"here: a\.0\.b is -?10?,?0.*; the limit is network_option=1000"):
            check_values({"a": [{"b": value}]}, "here")
    with pytest.raises(UserError, match="here holds too many values; the limit is network_values=20"):
        check_values({"a": [[1] * 10, [1] * 10]}, "here")


def test_what_is_small_is_counted_without_what_takes_torch_seconds_to_import() -> None:
    code = """
import sys, torch
from mmssl.nn.bounded import bounded
with bounded("here"):
    x = torch.randn(2, 3) * torch.arange(3)[None]
    torch.cat([x, x.sin()]).repeat(2, 1).reshape(3, -1)
print("sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr[-2000:]
