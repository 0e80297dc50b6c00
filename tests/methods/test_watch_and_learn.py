"""Watch and learn against MIL-NCE written out: any subtitle of a window suffices, negatives on both sides."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import mil_nce
from mmssl.methods.watch_and_learn import WatchAndLearn, method
from mmssl.types import Batch, Method
from mmssl.views import subtitled

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, films, numbers, present, same

SAID = [2, 3, 1, 3, 2]


@pytest.mark.parametrize("counted", [True, False])
def test_one_of_its_subtitles_is_enough(counted: bool) -> None:
    encoders: dict[str, Any] = {"video": Table("video"), "text": Table("text")}
    made = WatchAndLearn(encoders, embed_dim=3, hidden=(6,), temperature=0.5, max_scale=8.0)
    have = {"video_present": present(1, 1, 0, 1, 1), "text_present": present(1, 0, 1, 1, 1)}
    texts = [numbers(*range(start, start + 5)) for start in (0, 6, 12)]
    extra = have | ({"said": torch.tensor(SAID)} if counted else {})
    batch = Batch({"video": [films([0], [1], [2], [3], [4])], "text": texts}, extra=extra)
    seen = made.heads["video"](encoders["video"](batch.views["video"][0]))
    said = [made.heads["text"](encoders["text"](view)) for view in texts]
    rows, losses, right = [0, 3, 4], [], []
    lines = {row: [said[n][row] for n in range(SAID[row] if counted else 3)] for row in rows}
    for i in rows:
        own = [math.e ** (made.scale() * seen[i] @ line) for line in lines[i]]
        other_lines = [math.e ** (made.scale() * seen[i] @ line) for j in rows if j != i for line in lines[j]]
        other_films = [math.e ** (made.scale() * seen[j] @ line) for j in rows if j != i for line in lines[i]]
        losses.append(-torch.log(sum(own) / (sum(own) + sum(other_lines) + sum(other_films))))
        right.append(float(max(own) > max(other_lines)))
    found = made(encoders, batch)
    same(found.total, torch.stack(losses).mean(), [*encoders.values(), made])
    assert found.answers["correct"][rows].tolist() == right
    assert found.answers["correct"][[1, 2]].isnan().all()
    torch.testing.assert_close(found.logs["temperature"], torch.tensor(0.5))
    torch.testing.assert_close(found.logs["correct"], torch.tensor(right).mean())
    made.scale.log.data.fill_(9.0)
    made.after_step(encoders, 0.0)
    assert made.scale().item() == pytest.approx(8.0)


def test_positives_share_their_probability() -> None:
    queries, keys = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    labels = (torch.tensor([0, 7]), torch.tensor([0, 1, 0, 1]))
    shares = (queries[0] @ keys.T).softmax(0)
    more = torch.tensor([0.4, 0.1])
    total = (queries[0] @ keys.T).exp()
    found, further = (mil_nce(Contrast(queries, keys, labels=labels), extra) for extra in (None, more))
    torch.testing.assert_close(found, torch.stack([-(shares[0] + shares[2]).log(), torch.tensor(0.0)]))
    expected = -((total[0] + total[2]) / (total.sum() + more[0].exp())).log()
    torch.testing.assert_close(further, torch.stack([expected, torch.tensor(0.0)]))
    (gradient,) = torch.autograd.grad(found.sum(), queries)
    assert gradient.isfinite().all() and gradient[1].abs().sum() == 0


def test_defaults() -> None:
    assert method == Method(subtitled.view, WatchAndLearn)
    assert defaults(WatchAndLearn) == {
        "embed_dim": None, "hidden": (), "temperature": None, "max_scale": None, "bf16": False,
    }  # fmt: skip
    made = WatchAndLearn({key: Table(key) for key in ("video", "text")})
    assert made.scale().item() == pytest.approx(1 / 0.07) and made.scale.ceiling == pytest.approx(math.log(100))
    assert made.heads["text"].embed_dim == 512 and list(made.spaces()) == ["video", "text"]
