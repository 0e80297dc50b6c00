"""Films in parts of a few windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmssl.data.user_source import open_data
from mmssl.data.windowed import Windowed
from mmssl.errors import DamagedError, UserError


def test_each_part_has_a_few_windows_of_one_film(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    source = Windowed(open_data(tmp_path), [10.0, ["no film", "why"], 0.5], window=1, stride=None)
    parts = list(source.share(0, 1))
    assert source.count == len(parts) == 4
    assert [part.key for part in parts] == ["a.mp4", "a.mp4", "b.mp4", "c.mp4"]
    spans = [source.open(parts[place], {"video"})["__spans__"] for place in (0, 1, 3)]
    assert [len(one) for one in spans] == [8, 2, 1]
    assert spans[1] == [(8.0, 9.0), (9.0, 10.0)] and spans[2] == [(0.0, 0.5)]
    with pytest.raises(DamagedError, match="no film: why"):
        source.open(parts[2], {"video"})
    assert [part.key for part in source.share(1, 2)] == ["a.mp4", "c.mp4"]
    with pytest.raises(UserError, match="has more samples than before"):
        list(Windowed(open_data(tmp_path), [1.0], window=1, stride=1).share(0, 1))
