"""The loader's promises: equal epochs, nothing twice, new order each epoch, exact resume, counted damage."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import drawn, loader, number_set, numbers, write_tar

from mmssl.data.plan import Plan
from mmssl.data.shards import Source
from mmssl.errors import UserError

LAYOUTS = [(1, 0), (1, 3), (2, 2), (3, 4)]


@pytest.mark.parametrize(("world", "workers"), LAYOUTS)
@pytest.mark.parametrize("counts", [[100], [7, 50, 1, 42], [10] * 10])
def test_known_counts_are_shared_without_repeats(counts: list[int], world: int, workers: int) -> None:
    slots = world * max(1, workers)
    plan = Plan(0, 0, 0, world, max(1, workers), 4, 100 // (4 * world), len(counts), tuple(counts))
    seen: list[tuple[int, int]] = []
    for slot in range(slots):
        part = [(s.shard, i) for s in next(plan.passes(slot)) for i in range(s.start, s.stop or 0, s.step)]
        assert len(part) == 4 * plan.batches_of(slot % plan.workers)
        seen += part
    assert len(set(seen)) == len(seen) == 4 * world * plan.batches


@pytest.mark.parametrize("shards", [1, 3, 12])
def test_unknown_counts_are_shared_without_repeats(shards: int) -> None:
    plan = Plan(0, 0, 0, 2, 3, 4, 10, shards, None)
    seen: Counter[tuple[int, int]] = Counter()
    for slot in range(plan.slots):
        for part in next(plan.passes(slot)):
            seen.update((part.shard, i) for i in range(part.start, 60, part.step))
    assert set(seen) == {(shard, i) for shard in range(shards) for i in range(60)}
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_gets_as_many_batches(tmp_path: Path, world: int, known: bool) -> None:
    shards = number_set(tmp_path / "a", [30, 1, 20])
    found: list[int] = []
    for rank in range(world):
        source = (
            Source(shards=shards) if known else Source(shards=[f"pipe:cat {s}" for s in Source(shards=shards).shards])
        )
        asked = None if known else 48
        own = loader(source, batch=6, workers=2, rank=rank, world=world, epoch_samples=asked)
        batches = list(own.epoch(0))
        assert len(batches) == len(own) == (51 if known else 48) // (6 * world)
        assert all(len(batch.views["text"][0]) == 6 for batch in batches)
        found += numbers(batches)
    if known:
        assert len(set(found)) == len(found)


def test_epochs_differ_and_repeat(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [40, 40])
    own = loader(shards, batch=8, workers=2)
    first, second = (list(own.epoch(e)) for e in range(2))
    assert sorted(numbers(first)) == sorted(numbers(second)) == list(range(80))
    assert numbers(first) != numbers(second)
    assert numbers(first)[:8] != sorted(numbers(first)[:8])
    again = loader(shards, batch=8, workers=2)
    assert numbers(again.epoch(1)) == numbers(second), "an epoch does not depend on those before it"
    assert drawn(again.epoch(0)) == drawn(first)
    assert numbers(loader(shards, batch=8, workers=2, seed=1).epoch(0)) != numbers(first)


def test_the_samples_of_one_shard_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    """There is but one order of one shard, so all of it is the buffer's."""
    made = loader(number_set(tmp_path / "set", [24]), batch=4, workers=0)
    first, second = numbers(made.epoch(0)), numbers(made.epoch(1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second and first != sorted(first)


def test_main_process_equals_one_worker_and_keeps_its_generators(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [20, 20])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    main = [batch for e in range(2) for batch in loader(shards, batch=7, workers=0).epoch(e)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == np.random.get_state()[1].tolist()  # type: ignore[index]
    other = loader(shards, batch=7, workers=1)
    worker = [batch for e in range(2) for batch in other.epoch(e)]
    assert torch.equal(before[0], torch.get_rng_state()), "starting workers draws nothing either"
    assert (numbers(main), drawn(main)) == (numbers(worker), drawn(worker))
    assert len(set(drawn(main))) == len(drawn(main)), "every draw has a seed of its own"


def test_epoch_longer_than_the_set(tmp_path: Path) -> None:
    own = loader(number_set(tmp_path / "a", [5, 5]), batch=5, workers=2, epoch_samples=30)
    assert Counter(numbers(own.epoch(0))) == dict.fromkeys(range(10), 3)


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("after", [0, 1, 4, 9, 10])
def test_exact_resume(tmp_path: Path, workers: int, after: int) -> None:
    shards = number_set(tmp_path / "a", [30, 21, 30])
    write_tar(
        tmp_path / "a/001.tar",
        [{"__key__": f"n{n}", "txt": b"bad" if n % 7 == 0 else str(n).encode()} for n in range(30, 51)],
    )
    whole = loader(shards, batch=8, workers=workers, max_damaged=0.5)
    batches = whole.epoch(3)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(whole.state())) if after else {**whole.state(), "epoch": 3}
    expected = [*batches, *whole.epoch(4)]
    again = loader(shards, batch=8, workers=workers, max_damaged=0.5)
    resumed = [*again.epoch(3, resume=state), *again.epoch(4)]
    assert drawn(resumed) == drawn(expected)
    assert numbers(resumed) == numbers(expected)
    assert again.report() == whole.report()
    assert again.state() == whole.state()


@pytest.mark.parametrize(("world", "workers", "batch"), [(1, 3, 8), (2, 2, 4), (1, 2, 4)])
def test_resume_with_another_layout(tmp_path: Path, world: int, workers: int, batch: int) -> None:
    shards = number_set(tmp_path / "a", [50, 46])
    whole = loader(shards, batch=8, workers=2)
    batches = whole.epoch(0)
    for _ in range(5):
        next(batches)
    for rank in range(world):
        other = loader(shards, batch=batch, workers=workers, rank=rank, world=world)
        left = other.epoch(0, resume=whole.state())
        next(left)
        state = other.state()
        rest = list(left)
        assert (1 + len(rest)) * batch * world == 96 - 40
        again = loader(shards, batch=batch, workers=workers, rank=rank, world=world)
        assert drawn(again.epoch(0, resume=state)) == drawn(rest), "and that can be resumed exactly"
        assert len(list(again.epoch(1))) == len(again)


def test_a_state_of_another_order_draws_what_is_left_from_a_fresh_shuffle(tmp_path: Path) -> None:
    """Its draws are of the order before the first samples came out while the buffer fills."""
    own = loader(number_set(tmp_path / "a", [40]), batch=4, workers=0)
    batches = own.epoch(0)
    for _ in range(3):
        next(batches)
    state = {key: value for key, value in own.state().items() if key != "order"}
    again = loader(own.source, batch=4, workers=0)
    found = numbers(again.epoch(0, resume=state))
    assert (again.state()["base"], again.state()["batches"]) == (12, 7)
    assert len(set(found)) == 28 and found != numbers(batches)


def test_resume_opens_nothing_again(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [40])
    own = loader(shards, batch=4, workers=0)
    batches = own.epoch(0)
    for _ in range(8):
        next(batches)
    again = loader(shards, batch=4, workers=0)
    opened = []
    true_open = again.source.open
    again.source.open = lambda *a: opened.append(1) or true_open(*a)  # type: ignore[assignment,func-returns-value]
    list(again.epoch(0, resume=own.state()))
    assert len(opened) == 8


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_start_methods(tmp_path: Path, method: str) -> None:
    shards = number_set(tmp_path / "a", [8])
    expected = drawn(loader(shards, batch=4, workers=0).epoch(0))
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        assert drawn(loader(shards, batch=4, workers=1).epoch(0)) == expected
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert pickle.loads(pickle.dumps(Source(shards=shards))).count == 8


def bad_set(folder: Path, *, bad: int, of: int) -> str:
    folder.mkdir()
    texts = [b"bad" if n < bad else str(n).encode() for n in range(of)]
    write_tar(folder / "0.tar", ({"__key__": f"{n:04d}", "txt": text} for n, text in enumerate(texts)))
    return str(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_are_replaced_and_counted(tmp_path: Path, workers: int) -> None:
    shards = bad_set(tmp_path / "a", bad=3, of=100)
    own = loader(shards, batch=10, workers=workers)
    found = numbers(own.epoch(0))
    assert len(found) == 100
    assert set(found) == set(range(3, 100)), "all good ones, and others once more for the damaged"
    damaged = own.report()["damaged"]
    assert list(damaged) == ["not a number"]
    assert damaged["not a number"][f"{shards}/0.tar"] >= 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("bad", "of"), [(100, 100), (20, 100), (600, 3000)])
def test_too_many_damaged_stop(tmp_path: Path, workers: int, bad: int, of: int) -> None:
    own = loader(bad_set(tmp_path / "a", bad=bad, of=of), batch=10, workers=workers)
    with pytest.raises(
        UserError, match=r"samples are unusable, more than max_damaged=0.05: not a number \(\d+ in .*0.tar\)"
    ) as told:
        list(own.epoch(0))
    assert "\n" not in str(told.value)


def test_all_damaged_stops_even_when_all_are_allowed(tmp_path: Path) -> None:
    own = loader(bad_set(tmp_path / "a", bad=50, of=50), batch=10, workers=0, max_damaged=1.0)
    with pytest.raises(UserError, match="in a row are unusable"):
        next(own.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_the_first(tmp_path: Path, workers: int) -> None:
    own = loader(bad_set(tmp_path / "a", bad=1, of=100), batch=10, workers=workers, strict=True)
    with pytest.raises(UserError, match=r"^0000 of .*0.tar is unusable: not a number: bad$"):
        list(own.epoch(0))


@pytest.mark.parametrize("workers", [0, 3])
def test_samples_of_a_broken_shard_are_missed_each(tmp_path: Path, workers: int) -> None:
    shards = number_set(tmp_path / "a", [40, 40, 40])
    path = tmp_path / "a/001.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(
        UserError, match=r"1 of 3 shards are .* 40 of 120 samples, more than max_damaged=0.05: .*/001.tar"
    ):
        loader(shards, batch=8, workers=workers)
    own = loader(shards, batch=8, workers=workers, max_damaged=0.7)
    found = numbers(own.epoch(0))
    assert len(found) == 8 * len(own) == 120
    assert set(found) == set(range(40)) | set(range(80, 120)), "others stand in for them"
    damaged = [(Path(s).name, count) for shards in own.report()["damaged"].values() for s, count in shards.items()]
    assert [name for name, _ in damaged] == ["001.tar"]
    assert damaged[0][1] >= 40
    assert own.report()["drawn"] == 120 + damaged[0][1]


def test_fifteen_of_twenty_shards_cut_stop_a_run_with_and_without_an_index(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [100] * 20)
    index = {"format": "mmssl-shards-1", "shards": [{"name": f"{i:03d}.tar", "samples": 100} for i in range(20)]}
    cut = [tmp_path / f"a/{i:03d}.tar" for i in range(15)]
    whole = [path.read_bytes() for path in cut]
    for path in cut:
        path.write_bytes(path.read_bytes()[:1100])
    for _ in range(2):
        with pytest.raises(UserError, match=r"15 of 20 shards .* with them 1485 of 2000 samples"):
            loader(shards, batch=10, workers=0)
        (tmp_path / "a/index.json").write_text(json.dumps(index))
    for path, data in zip(cut, whole, strict=True):
        path.write_bytes(data[: 100 * 512])  # as long as 100 samples may be
    own = loader(shards, batch=10, workers=0)  # nothing tells before they are read
    with pytest.raises(
        UserError, match=r"samples are unusable, more than max_damaged=0.05: the tar ends in the middle"
    ):
        list(own.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_what_the_check_of_the_set_allowed_stops_no_epoch(tmp_path: Path, seed: int, workers: int) -> None:
    shards = number_set(tmp_path / "a", [8] * 20)
    path = tmp_path / "a/000.tar"
    path.write_bytes(path.read_bytes()[:700])  # just 5% of the set
    own = loader(shards, batch=16, workers=workers, seed=seed)
    assert [len(numbers(own.epoch(number))) for number in range(6)] == [160] * 6
    lost = {(reason, Path(s).name): n for reason, by in own.report()["damaged"].items() for s, n in by.items()}
    assert sum(lost.values()) >= 6 * 8 and {name for _, name in lost} == {"000.tar"}


@pytest.mark.parametrize("lost", ["false", "head -c 3000 {}"])
def test_lost_shards_of_unknown_length_miss_as_many_as_the_others_had(tmp_path: Path, lost: str) -> None:
    whole = Source(shards=number_set(tmp_path / "a", [100] * 20)).shards
    shards = [f"pipe:cat {s}" if n < 5 else f"pipe:{lost.format(s)}" for n, s in enumerate(whole)]
    own = loader(shards, batch=10, workers=0, epoch_samples=2000)
    with pytest.raises(UserError, match=r"\d+ of \d+ samples are unusable, more than max_damaged=0.05: the"):
        list(own.epoch(0))
    one = loader([*shards[:5] * 6, shards[-1]], batch=10, workers=0, epoch_samples=3000)
    batches = one.epoch(0)
    found = list(itertools.islice(batches, 250))
    again = loader([*shards[:5] * 6, shards[-1]], batch=10, workers=0, epoch_samples=3000)
    resumed = again.epoch(0, resume=json.loads(json.dumps(one.state())))
    assert drawn(itertools.islice(resumed, 40)) == drawn(itertools.islice(batches, 40))
    assert again.report() == one.report()
    assert len(found) == 250
    assert sum(n for shards in one.report()["damaged"].values() for n in shards.values()) in range(80, 101)


def test_one_lost_shard_of_many_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.stream.IN_A_ROW", 30)
    shards = number_set(tmp_path / "a", [60] * 21)
    own = loader(shards, batch=10, workers=0, shuffle_mb=0)
    (tmp_path / "a/000.tar").write_bytes(b"")  # lost after the start: 4.8% of the samples, but all in a row
    plan = own._plan(0)
    epoch = next(e for e in range(500) if next(dataclasses.replace(plan, epoch=e).passes(0))[0].shard == 0)
    batches = own.epoch(epoch)
    next(batches)
    assert own.report()["drawn"] == 70


def test_missing_modalities_are_marked(tmp_path: Path) -> None:
    samples = [
        {"__key__": str(n), **({"txt": str(n).encode()} if n % 3 else {}), "second.txt": b"5"} for n in range(1, 10)
    ]
    write_tar(tmp_path / "a.tar", samples)
    own = loader(str(tmp_path / "a.tar"), keys=("text", "second"), batch=9, workers=0)
    batch = next(own.epoch(0))
    present = batch.extra["text_present"]
    assert present.dtype == torch.bool
    assert present.sum() == 6
    assert bool((batch.views["text"][0][~present] == -1).all())
    assert bool((batch.views["text"][0][present] > 0).all())
    assert bool(batch.extra["second_present"].all())


def test_set_smaller_than_a_batch(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [5, 6])
    with pytest.raises(UserError, match=r"set has 11 samples, fewer than one batch of 6 on each of 2 rank"):
        loader(shards, batch=6, world=2)
    with pytest.raises(UserError, match="epoch is 3 samples"):
        loader(shards, batch=6, epoch_samples=3)
    with pytest.raises(UserError, match="say epoch_samples"):
        loader([f"pipe:cat {shards}/000.tar"], batch=2)


def test_more_workers_than_samples_of_unknown_number(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [2])
    own = loader([f"pipe:cat {shards}/000.tar"], batch=1, workers=3, epoch_samples=3)
    with pytest.raises(UserError, match=r"worker 2 of 3 .* finds no samples"):
        list(own.epoch(0))


def test_a_state_of_another_epoch_is_refused(tmp_path: Path) -> None:
    own = loader(number_set(tmp_path / "a", [8]), batch=4, workers=0)
    next(own.epoch(2))
    with pytest.raises(UserError, match="the state is of epoch 2; it cannot resume epoch 3"):
        own.epoch(3, resume=own.state())
