"""A run's folder: who may write into it, where a run goes on, and how it is saved; on several processes as one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from mmssl import checkpoint, dist, lock
from mmssl.errors import UserError, describe
from mmssl.files import together, write_atomically
from mmssl.state import State
from mmssl.types import Encoder, Objective

T = TypeVar("T")
RECIPE = "recipe.yaml"
TRIES = 5


def by_first(act: Callable[[], object]) -> None:
    """Lets the first process do something; where that fails, every process raises its UserError."""
    error, cause = "", None  # type: str, Exception | None
    if dist.rank() == 0:
        try:
            act()
        except UserError as raised:
            error, cause = str(raised), raised
        except OSError as raised:
            error, cause = f"{describe(raised)}; nothing already written is lost", raised
    if said := dist.gather_objects(error)[0]:
        raise UserError(said) from cause


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against other runs; see `lock.hold`."""
    with ExitStack() as held:
        by_first(lambda: held.enter_context(lock.hold(folder)))
        yield


def open_folder(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """Returns the newest state in a run's folder that loads, None for a new run.

    Raises UserError for a folder that holds anything where `resume` is off; and where it is on, when there are
    checkpoints and none loads, when there is none but encoders, and when processes see different ones.
    """
    if not resume:
        by_first(lambda: _refuse_used(folder))
        return None
    state, damaged = _load_everywhere(folder / "checkpoints")
    by_first(lambda: _set_aside(damaged) if state else _refuse_encoders(folder))
    return state


def _refuse_used(folder: Path) -> None:
    if folder.exists() and any(path.name != lock.NAME for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty; continue it with --resume, or choose another name=... or --out")


def _refuse_encoders(folder: Path) -> None:
    """A run writes its encoders after its first checkpoint; so one was there and was removed."""
    if any(folder.glob("encoders/*/model.safetensors")):
        raise UserError(
            f"{folder} holds encoders and no checkpoint to go on from, and a run from the beginning would overwrite "
            "them; choose another name=... or --out, or remove its encoders/"
        )


def _load_everywhere(folder: Path) -> tuple[dict[str, Any] | None, dict[Path, str]]:
    """Loads the newest state that loads, the same in every process."""
    state, damaged, error = None, {}, ""  # type: dict[str, Any] | None, dict[Path, str], str
    try:
        state, damaged = checkpoint.load_state(folder, schema=State)
    except UserError as raised:
        error = str(raised)
    everyone = dist.gather_objects((error, state["step"] if state else None))
    for rank, (error, _) in enumerate(everyone):
        if error:
            raise UserError(error if rank == 0 else f"rank {rank}: {error}")
    for rank, (_, step) in enumerate(everyone):
        if step != everyone[0][1]:
            raise UserError(
                f"processes find different checkpoints in {folder}: step {everyone[0][1]} on rank 0 and {step} on rank "
                f"{rank}; every machine needs the same folder"
            )
    return state, damaged


def _set_aside(damaged: Mapping[Path, str]) -> None:
    """Renames checkpoints that do not load, so that none of them counts as one, nor is overwritten."""
    for path, problem in damaged.items():
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        tqdm.write(f"{path.parent.parent}: {path.name} {problem}; it is now {aside.name}, and an older one is taken")


def keep_recipe(folder: Path, text: str, *, code: Mapping[str, bytes] | None = None, step: int) -> None:
    """Writes the recipe; one that it takes the place of stays beside it where it made the checkpoint of a step.

    code: files of own code that it names, path in the folder -> content, which are kept alike.
    """
    for place, data in (code or {}).items():
        _keep(folder / place, data, step, f"{folder}: the code in {place}")
    _keep(folder / RECIPE, text.encode(), step, f"{folder}: the recipe")


def _keep(path: Path, data: bytes, step: int, what: str) -> None:
    aside = path.with_name(f"{path.stem}_until_step_{step}{path.suffix}")
    if step and path.is_file() and path.read_bytes() != data and not aside.exists():
        path.rename(aside)
        tqdm.write(f"{what} is another than so far; that one is kept as {aside.name}")
    write_atomically(path, data)


def export(folder: Path, encoders: Mapping[str, Encoder], objectives: Mapping[str, Objective]) -> None:
    """Writes each encoder's folder and each objective's weights."""
    for key, encoder in encoders.items():
        checkpoint.save_encoder(encoder, folder / "encoders" / key)
    for key, objective in objectives.items():
        checkpoint.save_weights(objective.state_dict(), folder / "objectives" / f"{key}.safetensors")


def save(
    folder: Path,
    encoders: Mapping[str, Encoder],
    objectives: Mapping[str, Objective],
    state: dict[str, Any],
    *,
    keep: int,
) -> None:
    """Writes a checkpoint, and what `export` does, all of it or nothing; raises UserError where it cannot be written.

    All that needs room is written before anything takes its place. The checkpoint is first, since from it a resumed
    run writes the rest again.
    """
    lock.confirm(folder)
    try:
        with together():
            export(folder, encoders, objectives)
            checkpoint.save_state(folder / "checkpoints", state["step"], state, keep=keep)
    except OSError as error:
        raise UserError(
            f"step {state['step']} cannot be saved: {describe(error)}; what was saved before is whole: mend that, then "
            "go on with --resume"
        ) from error


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """Returns what is read of a run's encoders and objectives, all of one save: again where another came meanwhile.

    Raises UserError where they come faster than they can be read.
    """
    for _ in range(TRIES):
        before = _written(folder)
        found = read()
        if _written(folder) == before:
            return found
    raise UserError(f"{folder} was saved again each of {TRIES} times while it was read; read it when its run has ended")


def _written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Returns which files a save has put where they are."""
    files = (*folder.glob("encoders/*/model.safetensors"), *folder.glob("objectives/*.safetensors"))
    found = {path: path.stat() for path in files}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}
