"""What several processes make of a model: what a trial step freezes, what is sent, and when."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from linear.model import Fit
from test_multitask import batch, model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmssl import dist, parallel
from mmssl.objectives.bank import SampleRows
from mmssl.objectives.queue import Queue
from mmssl.parallel import accumulating, equal_everywhere, freeze_idle
from mmssl.types import Batch, Loss


def test_a_trial_step_freezes_what_no_loss_reaches_and_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    made.objectives["more"].spare = nn.Parameter(torch.ones(1))
    made.objectives["fit"].fixed = nn.Parameter(torch.ones(1), requires_grad=False)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    random = torch.get_rng_state()
    freeze_idle(made, {"fit": batch(), "more": batch()})
    made(dict.fromkeys(("fit", "more"), batch()))
    assert capsys.readouterr().out.splitlines() == [
        "frozen, since no task's loss reaches them: encoders.row.unused, objectives.more.spare"
    ]
    still = {key for key, p in made.named_parameters() if not p.requires_grad}
    assert still == {"encoders.row.unused", "objectives.more.spare", "objectives.fit.fixed"}
    assert all(p.grad is None for p in made.parameters())
    assert made.encoders["row"].passes == 2, "two tasks since, and the trial's are taken back"
    for key, value in before.items():
        assert key == "encoders.row.passes" or torch.equal(value, made.state_dict()[key])
    assert not torch.equal(random, torch.get_rng_state()), "the batches were drawn"


def test_a_trial_step_draws_nothing_and_is_silent_where_all_learns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shown = model(), {"fit": batch(), "more": batch()}
    made.encoders["row"].dropout.p = 0.5
    del made.encoders["row"].unused
    random = torch.get_rng_state()
    freeze_idle(made, shown)
    assert torch.equal(random, torch.get_rng_state()) and not capsys.readouterr().out
    made.objectives["fit"].spare = nn.Parameter(torch.ones(1))
    monkeypatch.setattr(dist, "rank", lambda: 1)
    freeze_idle(made, shown)
    assert not made.objectives["fit"].spare.requires_grad and not capsys.readouterr().out, "one process speaks"


def test_what_all_processes_write_alike_is_not_sent() -> None:
    made = nn.Module()
    made.queue, made.norm = Queue(4, 2), nn.BatchNorm1d(2)
    made.inner = nn.Module()
    made.inner.bank = SampleRows.__new__(SampleRows)
    nn.Module.__init__(made.inner.bank)
    made.inner.bank.register_buffer("held", torch.zeros(1))
    made.inner.bank.further = nn.BatchNorm1d(2)
    assert equal_everywhere(made) == ["queue.rows", "queue.place", "inner.bank.held"]


class Keeps(Fit):
    """Notes its rows for a queue."""

    def __init__(self, encoders: Any) -> None:
        super().__init__(encoders)
        self.queue = Queue(6, 3)

    def forward(self, encoders: Any, shown: Batch) -> Loss:
        self.queue.note(shown.views["row"][0])
        return super().forward(encoders, shown)


def test_a_trial_step_leaves_nothing_for_the_first_step() -> None:
    made = model(keeps=Keeps)
    queue = made.objectives["keeps"].queue
    freeze_idle(made, {"keeps": batch()})
    queue.write()
    assert queue.place == 0
    made({"keeps": batch()})
    queue.write()
    assert queue.place == 4


@pytest.mark.parametrize("cuda", [False, True])
def test_a_trial_step_puts_back_what_its_device_drew_alone(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices) or nullcontext())
    freeze_idle(model(), {"fit": batch()})
    assert asked == [[torch.device("cpu")] if cuda else []], "the model's, and not all that there are"


def test_one_process_trains_the_model_as_it_is() -> None:
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert parallel.sync_batch_norm(made, torch.device("cuda")) is made and parallel.wrap(made) is made
    with accumulating(made, last=False):
        made(torch.randn(3, 2)).sum().backward()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_batch_norm_is_over_all_processes_on_cuda(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world", lambda: 2)
    made = parallel.sync_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.device(device))
    assert type(made[1]) is (nn.SyncBatchNorm if device == "cuda" else nn.BatchNorm1d)


class Wrapped(DistributedDataParallel):
    """Notes when it does not exchange gradients; there is no group."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module, self.quiet = model, 0

    def no_sync(self) -> Any:
        self.quiet += 1
        return nullcontext()


def test_gradients_are_exchanged_after_the_last_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(parallel, "DistributedDataParallel", Wrapped)
    made = nn.ModuleDict({"queue": Queue(4, 2), "norm": nn.BatchNorm1d(2)})
    wrapped = parallel.wrap(made)
    assert isinstance(wrapped, Wrapped) and wrapped.module is made
    assert made._ddp_params_and_buffers_to_ignore == ["queue.rows", "queue.place"]
    for last, quiet in ((False, 1), (False, 2), (True, 2)):
        with accumulating(wrapped, last=last):
            assert wrapped.quiet == quiet
