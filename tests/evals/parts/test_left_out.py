"""A damaged sample ends no evaluation: it is left out, counted once and named, in one process and in two."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Command
from named import broken, png, tar
from PIL import Image
from test_classes import PROBES, RAW
from test_evals import Oracle
from test_register import sample as pair

from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.data.writer import build_from
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.evals.knn import KNN
from mmssl.evals.parts.labelled import Labelled
from mmssl.evals.parts.pretext import gathered, show
from mmssl.evals.parts.report import Report, reporting, skip_damaged, skip_sample, warn
from mmssl.evals.parts.source import open_source
from mmssl.evals.register import Register
from mmssl.evals.retrieval import Retrieval
from mmssl.evals.transfer_dense import TransferDense
from mmssl.evals.zero_shot import ZeroShot
from mmssl.judge import Judge
from mmssl.types import Objective, Pretext, Trained, View
from mmssl.views.single import view

BAD = {2: "pixels that are cut off", 9: "no image at all"}
SMALL = {"image_size": 16, "widths": [8], "depths": [1], "stem_stride": 1}


def mask() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pictures(root: Path, count: int, *, bad: Any = BAD) -> dict[str, Any]:
    """Writes images of two classes; of those in `bad` the header, or nothing, can be read."""
    samples = []
    for number in range(count):
        name = ("ant", "cat")[number % 2]
        data = png(name, number) if number not in bad else broken(png(name, number)) if number % 2 == 0 else b"\x89PNG?"
        samples.append({"png": data, "cls": number % 2, "txt": f"an {name}", "mask.png": mask()})
    return tar(root, samples)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    return {"train": pictures(tmp_path / "train", 24), "data": pictures(tmp_path / "test", 12)}


@pytest.mark.parametrize(("kind", "options", "figure"), PROBES, ids=lambda value: getattr(value, "__name__", ""))
def test_probes_leave_it_out(kind: type, options: dict[str, Any], figure: str, sets: dict[str, Any]) -> None:
    judge = Judge({"probe": {"name": f"{kind.__module__}:evaluation", **sets, **options}})
    torch.manual_seed(0)
    found = judge.run(Trained({"image": create_encoder("convnet", **SMALL).eval()}))
    assert found[f"probe/raw/{figure}"].value > 0.9 and f"probe/random_init/{figure}" in found
    if figure != "2-way/2-shot":
        assert found[f"probe/{figure}"].n == 10
    tuned = figure == "top1" and kind.__name__ == "Finetune"
    assert sum(judge.reports["probe"].counts().values()) == 4, "two of each set, however often they are read"
    assert any("draws of fine-tuning were left out" in w for w in judge.reports["probe"].warnings) == tuned


def test_the_line_and_the_file_name_it(sets: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    judge = Judge({"knn": {**sets, "k": [3]}, "linear": {**sets, "baselines": False}})
    judge.run(RAW)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "left out" in line]
    assert [line.split(":")[0] for line in lines] == ["knn", "linear"], "features are shared, and so is what they lack"
    assert "left out 4 samples: " in lines[0]
    assert f"e.g. 003 in {sets['data']['shards']})" in lines[0] and f"e.g. 010 in {sets['data']['shards']})" in lines[0]
    counts = judge.remarks()["left_out"]
    assert counts["knn"] == counts["linear"] and sorted(counts["knn"].values()) == [2, 2]


def test_two_processes_judge_and_count_as_one(sets: dict[str, Any], two_processes: Callable[..., str]) -> None:
    script = [str(Path(__file__).parents[1] / "two_judges.py"), json.dumps(sets)]
    alone = Command(script)
    assert alone.wait() == 0, alone.stderr
    found = [json.loads(said.splitlines()[-1]) for said in (alone.stdout, two_processes(*script))]
    assert sum(found[0]["left_out"]["linear"].values()) == 4
    assert found[0]["left_out"] == found[1]["left_out"]
    assert found[0]["linear/top1"] == pytest.approx(found[1]["linear/top1"])
    assert found[1]["finetune/top1"] > 0.6
    assert found[1]["warnings"] == ["not judged: rank 1: ValueError: of this process alone"]
    assert found[0]["odd/total"] == 2.0 and "odd/total" not in found[1] and found[1]["after/total"] == 2.0


def judged(judge: Judge, trained: Trained) -> None:
    judge.finish(Path("results.json"), judge.run(trained))


def test_an_evaluation_that_cannot_be_run_leaves_the_others(tmp_path: Path, sets: dict[str, Any]) -> None:
    nothing = pictures(tmp_path / "bad", 6, bad=range(6))
    options = {"baselines": False, "k": [3]}
    judge = Judge({"bad": {"name": "knn", **sets, "data": nothing, **options}, "knn": {**sets, **options}})
    scores = judge.run(RAW)
    assert list(scores) == ["knn/k3"]
    assert judge.remarks()["warnings"]["bad"][0].startswith("not judged: the evaluation data has no sample")
    with pytest.raises(
        UserError, match=r"evals\.bad: the evaluation data has no sample.*; the other figures .* r\.json$"
    ):
        judge.finish(Path("r.json"), scores)


def test_all_damaged_is_an_error_that_says_why(tmp_path: Path, sets: dict[str, Any]) -> None:
    nothing = pictures(tmp_path / "bad", 6, bad=range(6))
    with pytest.raises(UserError, match=r"no sample with a whole image.*left out 8 samples: "):
        judged(Judge({"knn": {"train": sets["train"], "data": nothing, "baselines": False}}), RAW)
    convnet = Trained({"image": create_encoder("convnet", **SMALL).eval()})
    for train, data in ((nothing, sets["data"]), (sets["train"], nothing)):
        with pytest.raises(UserError, match="whole image and mask; left out [68] samples"):
            judged(Judge({"transfer_dense": {"train": train, "data": data, "baselines": False}}), convnet)


def test_a_broken_shard_is_left_out_from_there_on(tmp_path: Path) -> None:
    samples = ({"png": png("ant", i), "cls": i % 2} for i in range(12))
    whole = tar(tmp_path, samples, classes=["ant", "bee"])
    path = Path(whole["shards"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with reporting() as report:
        dict(KNN(train=whole, data=whole, k=(1,), baselines=False).run(RAW))
    assert report.counts()["the tar ends in the middle or is garbled"] >= 1


def test_each_sample_of_a_lost_shard_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(tar(tmp_path, [{"cls": 0}]))
    lost = Entry("", source.shards[0], {}, "the shard cannot be opened")
    monkeypatch.setattr(Source, "entries", lambda self, shard, **cut: iter([lost] * 3))
    with reporting() as report:
        for _ in range(2):
            assert not list(source._samples({"label"}, 0, 1))
    assert report.counts() == {"the shard cannot be opened": 3}
    assert report.lines()[0].endswith(f"(3, e.g. {source.shards[0]})")


def test_zero_shot_and_retrieval_leave_it_out(tmp_path: Path) -> None:
    class Knows(Oracle):
        def __init__(self, modality: str) -> None:
            super().__init__(modality)
            self.spaces = {"clip": None}

        def __call__(self, raw: Any) -> Any:
            return create_encoder("raw:image", size=16).preprocess(raw)

        def collate(self, items: list[Any]) -> torch.Tensor:
            return torch.stack(items)

        def embed(self, x: torch.Tensor, space: str | None = None) -> torch.Tensor:
            return torch.nn.functional.one_hot((x.float().mean((2, 3)).argmax(1) == 2).long(), 2).float()

        def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
            return torch.tensor([[float(name in text) for name in ("ant", "cat")] for text in texts])

    data = pictures(tmp_path, 12)
    trained = Trained({"image": Knows("image"), "text": Knows("text")})  # type: ignore[dict-item]
    with reporting() as report:
        found = dict(ZeroShot(data=data, classes=["ant", "cat"], templates=["{}"]).run(trained))
        assert found["top1"].value == 1.0 and found["top1"].n == 10
        assert dict(Retrieval(data=data, k=(6,)).run(trained))["image-text/R@6"].n == 10
    assert sum(report.counts().values()) == 2
    lacking = [{"png": png("ant", 0), "txt": "an ant"}, {"png": png("cat", 1)}]
    with reporting() as report:
        assert dict(Retrieval(data=tar(tmp_path / "b", lacking), k=(1,)).run(trained))["image-text/R@1"].n == 1
    assert report.counts() == {"a sample without text": 1}


def test_masks_and_tasks_leave_it_out(sets: dict[str, Any], tmp_path: Path) -> None:
    encoder = create_encoder("convnet", **SMALL).eval()
    with reporting() as report:
        found = dict(TransferDense(**sets, baselines=False).run(Trained({"image": encoder})))
    assert found["mIoU"].n == 10 and sum(report.counts().values()) == 4
    trained = Trained({"image": encoder}, {"task": Pretext(Objective({"image": encoder}), view, {})})
    with reporting() as report:
        source = KNN(**sets).sets.test
        rows = gathered([which for which, _ in show(trained, "task", source, batch=5, rounds=2)])
    assert rows["sample"].unique().numel() == 10 and len(rows["sample"]) == 20
    assert sum(report.counts().values()) == 2


def test_pairs_of_clouds_leave_it_out(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    build_from(pair, 4, pairs, workers=1)
    node = {"shards": str(pairs), "fields": {"points": "points_a.ply"}}
    trained = Trained({"points": create_encoder("pointnet", widths=[4, 4])})
    with reporting() as report:
        made = Register(data=node, fpfh=False, ransac=False, voxel=0.1)
        assert dict(made.run(trained))["hit_ratio"].n == 3
    assert report.counts() == {"a pose that is not rigid": 1}


def test_random_weights_are_warmed_by_what_is_whole(tmp_path: Path) -> None:
    encoder = create_encoder("convnet", **SMALL)
    nothing, some = pictures(tmp_path / "a", 4, bad=range(4)), pictures(tmp_path / "b", 4, bad=range(2))
    with reporting() as report:
        Labelled(some, some, label="label").warm(encoder)
        Labelled(nothing, some, label="label").warm(encoder)
    assert len(report.left_out) == 6


def test_reports_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    sample = {"__shard__": "a.tar", "__key__": "k", "__number__": 0}
    with reporting() as outer:
        with reporting() as inner:
            with skip_damaged(sample):
                raise DamagedError("first", "detail")
            skip_sample(sample, DamagedError("second"))
            warn("careful")
        assert not outer.left_out
        outer.add(inner)
        outer.add(inner)
    assert outer.counts() == {"first": 1}
    assert outer.lines() == ["careful", "left out 1 sample: first (1, e.g. k in a.tar)"]
    assert Report().lines() == []
    skip_sample(sample, DamagedError("alone", "with its detail"))
    said = capsys.readouterr()
    assert "left out k in a.tar: alone: with its detail" in said.out + said.err, "without a report it is said at once"


def test_a_view_that_shows_nothing_is_damaged(sets: dict[str, Any]) -> None:
    class Nothing(View):
        def __call__(self, sample: Any) -> Any:
            return {}

    encoder = create_encoder("convnet", **SMALL)
    trained = Trained({"image": encoder}, {"task": Pretext(Objective({"image": encoder}), Nothing, {})})
    with reporting(), pytest.raises(UserError, match=r"asked about; left out 12 samples: .*a view without image \(1"):
        gathered([which for which, _ in show(trained, "task", KNN(**sets).sets.test)])
