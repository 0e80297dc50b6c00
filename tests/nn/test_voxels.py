"""Occupied voxels: where they lie, and which pairs of them a kernel joins, against a loop over all pairs."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from mmssl.errors import UserError
from mmssl.nn import voxels
from mmssl.nn.voxels import SPAN, Rulebook, Sites


def occupied(share: float) -> Sites:
    return Sites.of((torch.rand(2, 8, 8, 8) < share).nonzero())[0]


def joined(rules: Rulebook) -> set[tuple[int, int, int]]:
    """Every offset, input and output of the rules, each once."""
    listed = [(offset, int(i), int(o)) for offset, ins, outs in rules.steps for i, o in zip(ins, outs, strict=True)]
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (5, 1), (1, 2), (2, 2), (3, 2)])
def test_a_kernel_joins_the_voxels_that_lie_so_far_apart(kernel: int, stride: int) -> None:
    sites = occupied(0.06)
    outputs = sites if stride == 1 else sites.coarser()
    cells = range(-(kernel // 2), kernel // 2 + 1) if kernel % 2 else range(kernel)
    number = {tuple(coord): index for index, coord in enumerate(sites.coords.tolist())}
    expected = set()
    for offset, (dx, dy, dz) in enumerate(product(cells, cells, cells)):
        for output, (cloud, x, y, z) in enumerate(outputs.coords.tolist()):
            place = (cloud, stride * x + dx, stride * y + dy, stride * z + dz)
            if place in number:
                expected.add((offset, number[place], output))
    rules = sites.rules(kernel, stride)
    if stride == 1:
        assert rules.centre == kernel**3 // 2
        expected = {found for found in expected if found[0] != rules.centre}
    else:
        assert rules.centre is None
    assert joined(rules) == expected
    assert (len(rules.table), rules.inputs, rules.rows) == (kernel**3, len(sites), len(outputs))
    if stride == 2:
        back = sites.rules(kernel, stride, transposed=True)
        assert joined(back) == {(offset, output, input_) for offset, input_, output in expected}
        assert (len(back.table), back.inputs, back.rows) == (kernel**3, len(outputs), len(sites))
        assert back.centre is None


def test_coarser_voxels_are_those_of_twice_the_size() -> None:
    sites = occupied(0.1)
    halves = {(c, x // 2, y // 2, z // 2) for c, x, y, z in sites.coords.tolist()}
    assert list(map(tuple, sites.coarser().coords.tolist())) == sorted(halves)


def test_rules_are_found_once_per_grid() -> None:
    sites = occupied(0.3)
    assert sites.coarser() is sites.coarser()
    assert sites.rules(3) is sites.rules(3)
    assert sites.rules(2, 2, transposed=True) is sites.rules(2, 2, transposed=True)
    outputs = torch.cat([step[2] for step in sites.rules(3).steps])
    forth = {(o, int(a), int(b)) for o, i, j in sites.rules(3).steps for a, b in zip(i, j, strict=True)}
    assert forth == {(26 - o, b, a) for o, a, b in forth} and len(forth) == len(outputs)


def test_voxels_know_where_they_lie_and_what_fell_into_them() -> None:
    coords = torch.tensor([[1, 0, 0, 5], [0, 3, 2, 1], [1, 0, 0, 5], [0, SPAN - 1, 0, 0]])
    sites, index = Sites.of(coords)
    assert len(sites) == 3
    torch.testing.assert_close(sites.coords[index], coords)
    assert sites.coarser().coords.tolist() == [[0, 1, 1, 0], [0, SPAN // 2 - 1, 0, 0], [1, 0, 0, 2]]


def test_corners_of_the_key_space_do_not_meet() -> None:
    far = SPAN - 1
    ends = [[0, 8, 8, far], [0, 8, 9, 0], [0, 4, far, 7], [0, 5, 0, 7], [0, far, 9, 9], [1, 0, 9, 9]]
    sites = Sites.of(torch.tensor(ends))[0]
    assert not sites.rules(3).steps and not sites.rules(5).steps


@pytest.mark.parametrize("wrong", [[0, -1, 0, 0], [0, 0, SPAN, 0], [2**15, 0, 0, 0]])
def test_coordinates_without_room_are_refused(wrong: list[int]) -> None:
    with pytest.raises(UserError, match="there is room for 0 to 65531 in 32768 clouds: take larger voxels"):
        Sites.of(torch.tensor([[0, 1, 1, 1], wrong]))


def test_the_last_voxel_of_the_last_cloud_has_room() -> None:
    coords = torch.tensor([[2**15 - 1, SPAN - 1, SPAN - 1, SPAN - 1], [0, 0, 0, 0]])
    sites, index = Sites.of(coords)
    assert SPAN == 65532 and index.tolist() == [1, 0]
    assert torch.equal(sites.coords[index], coords)
    assert sites.coarser().coords.tolist() == [[0, 0, 0, 0], [2**15 - 1, *[SPAN // 2 - 1] * 3]]


@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 1), (2, 2), (3, 2)])
def test_table_pairs_and_steps_say_the_same(kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxels, "CHUNK", 5)
    rules = occupied(0.4).rules(kernel, stride)
    for made in (rules, rules.turned):
        assert max(len(step[1]) for step in made.steps) == 5
        table = made.table.clone()
        if made.centre is not None:
            assert table[made.centre].tolist() == list(range(made.rows))
            table[made.centre] = made.inputs
        assert made.columns.view(made.rows, -1).T.tolist() == made.table.tolist()
        listed = [(n, int(i), int(o)) for n, pair in enumerate(made.pairs) for i, o in zip(*pair, strict=True)]
        assert {*listed} == joined(made)
        for offset, input_, output in listed:
            assert table[offset, output] == input_
            table[offset, output] = made.inputs
        assert (table == made.inputs).all()
    assert {(n, o, i) for n, i, o in joined(rules)} == joined(rules.turned)
