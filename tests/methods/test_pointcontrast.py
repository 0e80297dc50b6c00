"""PointContrast: both losses against plain loops, what is sampled, and the answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.methods.pointcontrast import PointContrast, at_most, one_each, packed_pairs
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
import settings
from settings import cloud_pairs

# wide enough that no two points share an embedding, whatever is drawn: ties have no nearest
ENCODERS = {"points": create_encoder("pointnet", widths=[64, 64]).eval()}


def asked(batch: Batch, **options: object) -> tuple[Tensor, dict[str, Tensor], list[Tensor], PointContrast]:
    """Returns the loss, the answers, the embeddings of both clouds with gradient, and the objective."""
    torch.manual_seed(0)
    objective = PointContrast(ENCODERS, embed_dim=4, **options)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    objective.head.register_forward_hook(lambda *args: seen.append(args[-1]))
    loss = objective(ENCODERS, batch)
    both = seen[0].split([len(view) for view in batch.views["points"]])
    return loss.total, loss.answers, list(both), objective


def grads(total: Tensor, objective: PointContrast) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total, [*objective.parameters()], retain_graph=True)


def test_info_nce_equals_the_loop() -> None:
    batch = cloud_pairs(("points",), 3)
    batch.extra["points_present"] = torch.tensor([True, False, True])
    total, found, (a, b), objective = asked(batch, temperature=0.2)
    pairs = [(6 * s + i, 6 * s + i) for s in (0, 2) for i in range(4)]
    terms = []
    for i, j in pairs:
        logits = torch.stack([a[i] @ b[k] for _, k in pairs]) / 0.2
        terms.append(torch.logsumexp(logits, 0) - a[i] @ b[j] / 0.2)
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(total, expected)
    for x, y in zip(grads(total, objective), grads(expected, objective), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
    nearest = [max(pairs, key=lambda pair, i=i: (a[i] @ b[pair[1]]).item())[1] for i, _ in pairs]
    right = torch.tensor([float(j == k) for (_, j), k in zip(pairs, nearest, strict=True)])
    assert found["correct"][[0, 2]].tolist() == [right[:4].mean(), right[4:].mean()]
    assert found["correct"][1].isnan()


def test_hardest_equals_the_loop() -> None:
    batch = cloud_pairs(("points",), 2)
    several = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [2, 2], [-1, -1]])
    batch.extra |= {"matches": several.expand(2, -1, -1).clone(), "points_present": torch.ones(2, dtype=torch.bool)}
    total, _, (a, b), objective = asked(batch, loss="hardest", positive_margin=0.02, negative_margin=1.2)
    pairs = [(6 * s + i, 6 * s + j) for s in (0, 1) for i, j in several[:5].tolist()]
    pull = torch.stack([((a[i] - b[j]) ** 2).sum().sub(0.02).clamp(min=0) for i, j in pairs]).mean()
    sides = []
    for side, (queries, keys) in enumerate(((a, b), (b, a))):
        push = []
        for pair in pairs:
            distances = [((queries[pair[side]] - key) ** 2).sum().add(1e-7).sqrt() for key in keys]
            nearest = min(range(12), key=lambda k, d=distances: d[k].item())
            hit = (pair[0], nearest) if side == 0 else (nearest, pair[1])
            if hit not in pairs:
                push.append((1.2 - distances[nearest]).clamp(min=0) ** 2)
        assert 0 < len(push) < len(pairs), "some nearest candidates are matches, and do not count"
        sides.append(torch.stack(push).mean())
    expected = pull + (sides[0] + sides[1]) / 2
    torch.testing.assert_close(total, expected)
    for x, y in zip(grads(total, objective), grads(expected, objective), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_rows_of_packed_clouds_of_different_sizes() -> None:
    first = torch.tensor([[0.0, 0, 0, 0]] * 3 + [[1.0, 0, 0, 0]] * 2)
    second = torch.tensor([[0.0, 0, 0, 0]] + [[1.0, 0, 0, 0]] * 4)
    matches = torch.tensor([[[2, 0], [-1, -1]], [[1, 3], [0, 0]]])
    extra = {"matches": matches, "points_present": torch.tensor([True, True])}
    assert packed_pairs(Batch({"points": [first, second]}, None, extra)).tolist() == [[2, 0], [4, 4], [3, 1]]
    extra["points_present"][0] = False
    assert packed_pairs(Batch({"points": [first, second]}, None, extra)).tolist() == [[4, 4], [3, 1]]


def test_each_query_keeps_its_first_match_and_sampling_is_random_only_beyond_the_limit() -> None:
    pairs = torch.tensor([[4, 9], [2, 1], [4, 3], [2, 8], [0, 5]])
    assert one_each(pairs, limit=9).tolist() == [[0, 5], [2, 1], [4, 9]]
    assert len(one_each(pairs, limit=2)) == 2
    assert one_each(pairs[:0], limit=2).shape == (0, 2)
    rows = torch.arange(100)
    assert torch.equal(at_most(rows, 100), rows)
    drawn = at_most(rows, 50)
    assert len(drawn.unique()) == 50
    assert not torch.equal(drawn, at_most(rows, 50))


TWO = """
import sys, torch, torch.distributed as td
sys.path.insert(0, {here!r})
import settings
from mmssl import dist
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
settings.SETTINGS["pointcontrast"].options = {{"embed_dim": 8, "loss": "hardest"}}
td.init_process_group("gloo")
mine = settings.pick(settings.batch("pointcontrast"), torch.arange(8).chunk(2)[td.get_rank()])
model = settings.build("pointcontrast")
wrapped = DistributedDataParallel(model)
total, _ = wrapped({{"pointcontrast": mine}})
total.backward()
if td.get_rank() == 0:
    torch.save({{k: p.grad for k, p in model.named_parameters()}}, {out!r})
td.barrier()
td.destroy_process_group()
dist.leave()
"""


def test_hardest_on_two_processes_equals_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_processes: Callable[..., str]
) -> None:
    script, out = tmp_path / "two.py", tmp_path / "found.pt"
    script.write_text(TWO.format(here=str(Path(__file__).parent), out=str(out)))
    two_processes(script)
    monkeypatch.setattr(settings.SETTINGS["pointcontrast"], "options", {"embed_dim": 8, "loss": "hardest"})
    model = settings.build("pointcontrast")
    model({"pointcontrast": settings.batch("pointcontrast")})[0].backward()
    found = torch.load(out, weights_only=True)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-5, atol=1e-5)
