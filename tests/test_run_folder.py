"""A run's folder: what a resume takes up and what it leaves alone, the same for every process."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from mmssl import checkpoint, dist, lock, run_folder
from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.run_folder import by_first, keep_recipe, locked, open_folder, read_whole

WHOLE = {
    "model": {},
    "optimizer": {"state": {}, "param_groups": []},
    "averaged": None,
    "bad_steps": torch.zeros(()),
    "streams": [{}],
    "random": [{"cpu": torch.get_rng_state()}],
}


def saved(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        checkpoint.save_state(folder / "checkpoints", step, {"step": step, **WHOLE}, keep=keep)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_resume_where_no_checkpoint_loads_changes_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"checkpoints/step_{step}/state.pt").write_bytes(b"half")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint in .*: step_2 does not load .*; step_1 does not load"):
        open_folder(tmp_path, resume=True)
    assert content(tmp_path) == before


def test_damaged_checkpoints_count_as_none_and_are_kept_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 1, 2, 3)
    for step in (2, 3):
        (tmp_path / f"checkpoints/step_{step}/state.pt").write_bytes(b"%d" % step)
    state = open_folder(tmp_path, resume=True)
    assert state is not None and state["step"] == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    saved(tmp_path, 2, keep=1)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_2", "step_2.damaged", "step_3.damaged"], "the one of step 3 is no newer one"
    (tmp_path / "checkpoints/step_2/state.pt").write_bytes(b"again")
    saved(tmp_path, 1)
    open_folder(tmp_path, resume=True)
    assert (tmp_path / "checkpoints/step_2.damaged/state.pt").read_bytes() == b"again"


def test_a_resume_does_not_overwrite_encoders_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "encoders/text").mkdir(parents=True)
    (tmp_path / "encoders/text/tokenizer.json").touch()  # which a run writes before its first step
    assert open_folder(tmp_path, resume=True) is None
    (tmp_path / "encoders/text/model.safetensors").write_bytes(b"trained")
    with pytest.raises(UserError, match="holds encoders and no checkpoint to go on from"):
        open_folder(tmp_path, resume=True)
    saved(tmp_path, 4)
    state = open_folder(tmp_path, resume=True)
    assert state is not None and state["step"] == 4


def test_a_lock_makes_no_folder_a_used_one(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).touch()
    with locked(tmp_path):
        assert open_folder(tmp_path, resume=False) is None
    (tmp_path / "x").touch()
    with locked(tmp_path), pytest.raises(UserError, match="is not empty"):
        open_folder(tmp_path, resume=False)
    assert content(tmp_path) == {"x": b""}


@pytest.mark.parametrize("step", [0, 7])
def test_the_recipe_of_what_was_made_stays(step: int, tmp_path: Path) -> None:
    keep_recipe(tmp_path, "a: 1\n", step=0)
    for text in ("a: 1\n", "a: 2\n", "a: 3\n"):
        keep_recipe(tmp_path, text, step=step)
    kept = {"recipe.yaml": b"a: 3\n", **({"recipe_until_step_7.yaml": b"a: 1\n"} if step else {})}
    assert content(tmp_path) == kept, "that of 2 made nothing"


def test_what_the_first_process_cannot_do_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    by_first(lambda: done.append(1))
    with pytest.raises(UserError, match="^told$"):
        by_first(lambda: (_ for _ in ()).throw(UserError("told")))
    with pytest.raises(UserError, match="^No space left on device at x; nothing already written is lost$") as caught:
        by_first(lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device", "x")))
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    by_first(lambda: done.append(2))
    monkeypatch.setattr(dist, "gather_objects", lambda mine: ["first", mine])
    with pytest.raises(UserError, match="^first$"):
        by_first(lambda: done.append(2))
    assert done == [1]


def test_nothing_is_saved_by_a_process_whose_folder_was_taken_over(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / lock.NAME).write_text('{"token": "theirs"}')
        with pytest.raises(UserError, match="was taken over"):
            run_folder.save(tmp_path, {}, {}, {"step": 1}, keep=1)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["encoders/text/model.safetensors", "objectives/clip.safetensors"])
def test_what_is_read_beside_a_live_run_is_of_one_save(name: str, tmp_path: Path) -> None:
    def save(size: int) -> None:
        for file in ("encoders/image/model.safetensors", name):
            write_atomically(tmp_path / file, b"x" * size)

    turns: list[int] = []

    def read() -> tuple[int, int]:
        first = (tmp_path / "encoders/image/model.safetensors").stat().st_size
        turns.append(first)
        if len(turns) < 3:
            save(first + 1)
        return first, (tmp_path / name).stat().st_size

    save(1)
    assert read_whole(tmp_path, read) == (3, 3) and turns == [1, 2, 3]
    with pytest.raises(UserError, match="was saved again each of 5 times while it was read"):
        read_whole(tmp_path, lambda: save(1))
