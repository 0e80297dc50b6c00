"""PointContrast: both losses against plain loops, what is sampled, and the answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.methods import pointcontrast
from mmssl.methods.pointcontrast import PointContrast, answers, at_most, method, one_each, packed_pairs
from mmssl.types import Batch, Encoder, Features, Method, Ragged
from mmssl.views import cloud_pair

sys.path.insert(0, str(Path(__file__).parent))
import settings
from settings import cloud_pairs
from tables import defaults, present, same

# wide enough that no two points share an embedding, whatever is drawn: ties have no nearest
ENCODERS = {"points": create_encoder("pointnet", widths=[64, 64]).eval()}


def asked(batch: Batch, **options: object) -> tuple[Tensor, dict[str, Tensor], list[Tensor], PointContrast]:
    """Returns the loss, the answers, the embeddings of both clouds with gradient, and the objective."""
    torch.manual_seed(0)
    objective = PointContrast(ENCODERS, embed_dim=4, **options)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    objective.head.register_forward_hook(lambda *args: seen.append(args[-1]))
    loss = objective(ENCODERS, batch)
    both = seen[0].split([len(view.values) for view in batch.views["points"]])
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
    first = Ragged(torch.zeros(5, 3), torch.tensor([3, 2]))
    second = Ragged(torch.zeros(5, 3), torch.tensor([1, 4]))
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


class Points(Encoder):
    """Knows each point by its x, and its token is that row of a table."""

    modality, dim = "points", 5

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Parameter(torch.randn(40, 5))
        self.clouds: list[int] = []

    def forward(self, x: Ragged) -> Features:
        self.clouds = x.lengths.tolist()
        return Features(x.values, self.tokens[x.values[:, 0].long()])


# of three clouds of 4, 2 and 3 points, and 2, 3 and 4 in the other view; the second sample has no points
SIZES, OTHER = (4, 2, 3), (2, 3, 4)
MATCHES = torch.tensor([
    [[3, 0], [1, 1], [3, 1], [-1, -1]],
    [[0, 0], [1, 2], [-1, -1], [-1, -1]],
    [[2, 3], [0, 0], [2, 1], [1, 3]],
])  # fmt: skip
PAIRS = [(3, 0), (1, 1), (3, 1), (8, 8), (6, 5), (8, 6), (7, 8)]  # rows of the packed clouds
FIRST = [(1, 1), (3, 0), (6, 5), (7, 8), (8, 8)]  # one of each query, the first


def ragged() -> Batch:
    def packed(sizes: tuple[int, ...], start: int) -> Ragged:
        return Ragged((torch.arange(9.0) + start)[:, None].expand(9, 3), torch.tensor(sizes))

    extra = {"matches": MATCHES, "points_present": present(1, 0, 1)}
    return Batch({"points": [packed(SIZES, 0), packed(OTHER, 20)]}, None, extra)


@pytest.fixture
def no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn is drawn from the end on."""
    monkeypatch.setattr(pointcontrast.torch, "randperm", lambda n, device: torch.arange(n, device=device).flip(0))


def embedded(objective: PointContrast, encoder: Points) -> tuple[Tensor, Tensor]:
    rows = encoder.tokens @ objective.head.layers[0].weight.T
    rows = rows / rows.square().sum(1, keepdim=True).sqrt()
    return rows[:9], rows[20:29]


@pytest.fixture(params=[False, True], ids=["alone", "second of two"])
def others(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the points of a first process come before: as many as this one's, backwards and of the other sign."""
    if request.param:
        monkeypatch.setattr(dist, "gather_rows", lambda x: (torch.cat([-x.flip(0), x]), len(x)))
    return bool(request.param)


@pytest.mark.parametrize(("queries", "chosen"), [(5, FIRST), (3, FIRST[:1:-1]), (1, FIRST[:3:-1])])
def test_info_nce_on_ragged_clouds_with_every_option(
    queries: int, chosen: list[tuple[int, int]], no_luck: None, others: bool
) -> None:
    encoders = {"points": Points()}
    objective = PointContrast(encoders, embed_dim=4, temperature=0.3, queries=queries)
    a, b = embedded(objective, encoders["points"])
    keys = [b[k] for _, k in chosen] + [-b[k] for _, k in chosen if others]
    terms = [(torch.stack([a[i] @ key for key in keys]) / 0.3).logsumexp(0) - a[i] @ b[j] / 0.3 for i, j in chosen]
    loss = objective(encoders, ragged())
    same(loss.total, torch.stack(terms).mean(), [*encoders.values(), objective])
    assert encoders["points"].clouds == [*SIZES, *OTHER]
    assert loss.logs == {}
    torch.testing.assert_close(loss.embeddings["points"], a[[i for i, _ in chosen]].detach())
    assert not loss.embeddings["points"].requires_grad
    right: list[list[float]] = [[], [], []]
    for i, _ in chosen:
        nearest = max((k for _, k in chosen), key=lambda k, i=i: (a[i] @ b[k]).item())
        right[0 if i < 4 else 2].append(float((i, nearest) in PAIRS))
    for sample, found in enumerate(right):
        answer = loss.answers["correct"][sample].item()
        assert answer != answer if not found else answer == pytest.approx(sum(found) / len(found))
    assert objective.spaces() == {"points": objective.head} and objective.uses == ("points",)


@pytest.mark.parametrize(
    ("positives", "candidates", "pairs", "rows"),
    [(9, 9, PAIRS, [[0, 1, 2, 3, 6, 7, 8], [0, 1, 5, 6, 7, 8]]), (1, 1, PAIRS[:3:-1], [[8, 7, 6], [8, 7, 6]])],
    ids=["all", "some"],
)
def test_hardest_on_ragged_clouds_with_every_option(
    positives: int, candidates: int, pairs: list[tuple[int, int]], rows: list[list[int]], no_luck: None, others: bool
) -> None:
    """Limits count samples, also those without points: three here. Rows: candidates of the first and second view."""
    encoders = {"points": Points()}
    objective = PointContrast(
        encoders, embed_dim=4, loss="hardest", positives=positives, candidates=candidates, positive_margin=0.3,
        negative_margin=1.9,
    )  # fmt: skip
    a, b = embedded(objective, encoders["points"])
    pull = torch.stack([((a[i] - b[j]).square().sum() - 0.3).clamp(min=0) for i, j in pairs]).mean()
    sides = []
    for side, (queries, keys) in enumerate(((a, b), (b, a))):
        terms = []
        for pair in pairs:
            query = queries[pair[side]]
            there = [(row, keys[row]) for row in rows[1 - side]]
            there += [(-1, -key) for _, key in there if others]
            nearest, key = min(there, key=lambda candidate, q=query: (q - candidate[1]).square().sum().item())
            hit = (pair[0], nearest) if side == 0 else (nearest, pair[1])
            if hit not in PAIRS:
                terms.append((1.9 - ((query - key).square().sum() + 1e-7).sqrt()).clamp(min=0).square())
        sides.append(torch.stack(terms).mean())
    push = (sides[0] + sides[1]) / 2
    loss = objective(encoders, ragged())
    same(loss.total, pull + push, [*encoders.values(), objective])
    assert list(loss.logs) == ["loss_positive", "loss_negative"]
    torch.testing.assert_close(loss.logs["loss_positive"], pull.detach())
    torch.testing.assert_close(loss.logs["loss_negative"], push.detach())
    assert not any(value.requires_grad for value in loss.logs.values())


def test_a_hardest_loss_whose_every_nearest_is_a_match_pushes_nothing() -> None:
    encoders = {"points": Points()}
    objective = PointContrast(encoders, embed_dim=4, loss="hardest")
    batch = ragged()
    batch.extra["points_present"] = present(0, 0, 0)
    loss = objective(encoders, batch)
    assert loss.total == 0 and loss.total.requires_grad and loss.answers["correct"].isnan().all()


def test_answers_are_shares_of_each_samples_queries() -> None:
    """Keys on a line: the nearest of each query is known, a match or not."""
    a, b = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
    pairs = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 3]])
    found = answers(a, b, pairs[[0, 1, 2]], pairs, torch.tensor([0, 0, 0, 2]), 4)
    assert found[0].item() == pytest.approx(2 / 3) and found[1:].isnan().all()
    found = answers(a, b, pairs, pairs, torch.tensor([0, 2, 2, 2]), 4)
    assert found[0] == 1 and found[2].item() == pytest.approx(2 / 3)
    assert found.isnan().tolist() == [False, True, False, True]
    assert answers(a, b, pairs[:0], pairs, torch.zeros(4).long(), 3).isnan().tolist() == [True] * 3


def test_defaults_are_the_papers() -> None:
    """Xie et al., ECCV 2020, and its code: 32 numbers, temperature 0.07, 4096 queries, 1024 positives, 256 candidates,
    margins 0.1 and 1.4 (as FCGF, Choy et al., ICCV 2019).
    """
    assert method == Method(cloud_pair.view, PointContrast)
    assert defaults(PointContrast) == {
        "embed_dim": 32, "loss": "info_nce", "temperature": 0.07, "queries": 4096, "positives": 1024,
        "candidates": 256, "positive_margin": 0.1, "negative_margin": 1.4,
    }  # fmt: skip


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
