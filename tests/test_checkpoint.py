"""Encoder folders: strict, offline, without the trainer; checkpoints: whole or absent."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl import checkpoint, create_encoder, load_encoder, save_encoder
from mmssl.checkpoint import load_state, save_state, steps
from mmssl.encoders import vit
from mmssl.errors import UserError
from mmssl.limits import VARIABLE
from mmssl.nn.head import Projection

SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = create_encoder("vit", **SMALL)
    encoder.spaces["clip"] = Projection(encoder.dim, out=8, hidden=(12,))
    save_encoder(encoder, tmp_path / "image")
    return tmp_path / "image"


def test_a_saved_encoder_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = create_encoder("vit", **SMALL).eval()
    encoder.spaces["clip"] = Projection(encoder.dim, out=8).eval()
    save_encoder(encoder, tmp_path / "image")
    loaded = load_encoder(tmp_path / "image")
    pictures = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8)
    for space in (None, "clip"):
        torch.testing.assert_close(loaded.encode(pictures, space=space), encoder.encode(pictures, space=space))
    assert (loaded.dim, loaded.modality, loaded.preprocess) == (16, "image", encoder.preprocess)
    assert not loaded.training


def test_it_loads_offline_where_the_trainer_cannot_be_imported(folder: Path) -> None:
    code = f"""
import sys, socket
for name in ("trainer", "multitask", "recipe", "judge", "methods", "optim", "data", "evals", "losses", "views", "log"):
    sys.modules[f"mmssl.{{name}}"] = None
def refuse(*a, **k): raise OSError("no network")
socket.socket.connect = refuse
import mmssl, numpy as np
encoder = mmssl.load_encoder({str(folder)!r})
print(tuple(encoder.encode(np.zeros((20, 20, 3), np.uint8), space="clip").shape), encoder.dim, encoder.modality)
heavy = ("webdataset", "transformers", "timm", "av", "tensorboard")
print([name for name in sys.modules if name.split(".")[0] in heavy])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(1, 8) 16 image", "[]"], done.stderr[-2000:]


def test_what_is_no_encoder_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no encoder folder \\(no such folder\\)"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no encoder folder \\(no such folder\\)"):
        load_encoder("a" * 5000)
    with pytest.raises(UserError, match="it holds image"):
        load_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="not of mmssl's format"):
        load_encoder(folder)
    config["encoder"]["options"]["depth"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights do not fit the architecture"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        load_encoder(folder)


def test_a_config_is_read_by_its_schema(folder: Path) -> None:
    whole = json.loads((folder / "config.json").read_text())
    for path, value, message in WRONG:
        config = json.loads(json.dumps(whole))
        *parents, last = path.split(".")
        node = config
        for key in parents:
            node = node[key]
        node.pop(last) if value is ... else node.update({last: value})
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError) as caught:
            load_encoder(folder)
        said = str(caught.value)
        assert message in said and "\n" not in said, (path, said)
    (folder / "config.json").write_text(json.dumps(whole))
    load_encoder(folder)


WRONG = [
    ("modality", ..., "modality is missing; expected str"),
    ("modality", "text", "modality and dim are ('text', 16); 'vit' has ('image', 16)"),
    ("dim", 17, "modality and dim are ('image', 17); 'vit' has ('image', 16)"),
    ("dim", 0, "dim is 0; expected int of at least 1"),
    ("encoder", "vit", "encoder is 'vit'; expected a mapping with name (str), options"),
    ("encoder.name", ["vit"], "encoder.name is ['vit']; expected str"),
    ("encoder.options", ["width"], "encoder.options is ['width']; expected dict[str, Any]"),
    ("encoder.options", None, "encoder.options is None"),
    ("encoder.options.width", "16", "width is '16'; expected int"),
    ("encoder.options.where", "x", "where"),
    ("encoder.options.trust_code", True, "trust_code"),
    ("encoder.options.self", 1, "has no option 'self'"),
    ("encoder.options.width", -16, "describes an encoder that cannot be built: "),
    ("encoder.options.heads", -3, "multiple of heads -3"),
    ("encoder.options.patch_size", 0, "describes an encoder that cannot be built: "),
    ("preprocess", [], "preprocess is []; expected dict"),
    ("preprocess.size", ["a"], "preprocess.size is ['a']; expected int of at least 1"),
    ("preprocess.size", 0, "preprocess.size is 0; expected int of at least 1"),
    ("preprocess.size", 2**40, "preprocess.size is 1,099,511,627,776; the limit is network_option="),
    ("preprocess.crop_ratio", 0, "preprocess.crop_ratio is 0; expected float above 0"),
    ("preprocess.resize", "x", "preprocess.resize is 'x'; expected one of"),
    ("preprocess.items", "x", "preprocess has no 'items'"),
    ("preprocess.__class__", "x", "preprocess has no '__class__'"),
    ("preprocess.further", [1], "preprocess has no 'further'"),
    ("preprocess." + "a" * 9999, 1, f"preprocess has no '{'a' * 199}...; known: "),
    ("modality", "a" * 9999, f"modality and dim are ('{'a' * 198}...; 'vit' has ('image', 16)"),
    ("spaces", [], "spaces is []; expected dict"),
    ("spaces.clip", None, "spaces.clip is None; expected a mapping with "),
    ("spaces.clip.dim", ..., "spaces.clip.dim is missing; expected int of at least 1"),
    ("spaces.clip.dim", "16", "spaces.clip.dim is '16'; expected int of at least 1"),
    ("spaces.clip.kind", 3, "spaces.clip.kind is 3; expected str"),
    ("spaces.clip.hidden", "12", "hidden is '12'; expected "),
    ("spaces.clip.out", -8, "describes an encoder that cannot be built: "),
]


def test_damaged_weights_are_one_clear_error(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        load_encoder(folder)


def test_a_folder_cannot_name_foreign_code_unless_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["name"] = "their.code:encoder"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trust_code=True"):
        load_encoder(folder)
    from types import ModuleType

    module = ModuleType("their.code")
    module.encoder = vit.encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.code", module)
    assert load_encoder(folder, trust_code=True).dim == 16


def test_raw_inputs_of_every_kind_embed_alike(folder: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    encoder = load_encoder(folder)
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "x.png")
    kinds = [array, picture, tmp_path / "x.png", str(tmp_path / "x.png"), torch.from_numpy(array).permute(2, 0, 1)]
    expected = encoder.encode(array)
    assert expected.shape == (1, 16)
    for kind in kinds:
        torch.testing.assert_close(encoder.encode(kind), expected)
        torch.testing.assert_close(encoder.encode([kind, array], batch_size=1), expected.expand(2, -1))
    with pytest.raises(UserError, match="nothing to encode"):
        encoder.encode([])


def test_the_newest_state_that_loads_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    assert load_state(tmp_path) == (None, {})
    for step in (2, 10, 9):
        save_state(tmp_path, step, {"step": step, "x": torch.ones(3)}, keep=2)
    assert [path.name for path in steps(tmp_path)] == ["step_10", "step_9"]
    (tmp_path / "step_10" / "state.pt").write_bytes(b"half")
    (tmp_path / ".step_11.tmp").mkdir()
    state, problems = load_state(tmp_path)
    assert state is not None and state["step"] == 9
    assert list(problems) == [tmp_path / "step_10"] and problems[tmp_path / "step_10"].startswith("does not load (")


def test_that_no_state_loads_is_an_error_that_says_what_is_wrong_with_each(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_state(tmp_path, step, {"step": step, "x": torch.ones(300)}, keep=4)
    whole = (tmp_path / "step_4" / "state.pt").read_bytes()
    (tmp_path / "step_4" / "state.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "step_3" / "state.pt").write_bytes(b"")
    (tmp_path / "step_2" / "state.pt").unlink()
    (tmp_path / "step_1" / "state.pt").unlink()
    (tmp_path / "step_1" / "state.pt").mkdir()
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    for said in (
        "no checkpoint in",
        "nothing was changed",
        "step_4 does not load ('RuntimeError: PytorchStreamReader",
        "step_3 does not load ('EOFError",
        "step_2 holds no file state.pt",
        "step_1 holds no file state.pt",
    ):
        assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE])
def test_what_the_system_does_not_let_be_read_is_not_damaged(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one in its place would cost the steps since, and in the end overwrite it."""
    for step in (1, 2):
        save_state(tmp_path, step, {"step": step}, keep=2)
    real = torch.load

    def refused(path: Path, **options: object) -> object:
        if "step_2" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **options)

    monkeypatch.setattr(checkpoint.torch, "load", refused)
    with pytest.raises(UserError, match=rf"step_2/state.pt cannot be read: {os.strerror(number)}; nothing was changed"):
        load_state(tmp_path)
    monkeypatch.setattr(checkpoint.torch, "load", lambda *a, **b: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        load_state(tmp_path)


@pytest.mark.parametrize("change", ["lacks", "has more", "another shape"])
def test_weights_load_strictly(change: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.startswith("encoder."))
    if change == "lacks":
        del weights[key]
    elif change == "has more":
        weights["encoder.further"] = torch.zeros(1)
    else:
        weights[key] = torch.zeros(*weights[key].shape, 2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="the weights do not fit the architecture in config.json"):
        load_encoder(folder)


@pytest.mark.parametrize("key", ["spaces.clip.layers.0.weight", "spaces.clip.further"])
def test_weights_of_spaces_load_strictly(key: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(key, None) if key in weights else weights.update({key: torch.zeros(1)})
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="the weights do not fit"):
        load_encoder(folder)


def test_a_state_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, 3, {"step": 3}, keep=2)

    def half(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", half)
        for step in (3, 4):
            with pytest.raises(OSError, match="disk full"):
                save_state(tmp_path, step, {"step": step}, keep=2)
    assert load_state(tmp_path) == ({"step": 3}, {})
    assert [path.name for path in steps(tmp_path)] == ["step_3"]
    assert save_state(tmp_path, 4, {"step": 40}, keep=1) == tmp_path / "step_4"
    assert save_state(tmp_path, 4, {"step": 41}, keep=1) == tmp_path / "step_4", "a step may be written again"
    assert load_state(tmp_path) == ({"step": 41}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step_4"], "nothing is left of what failed"


def test_what_a_killed_process_left_is_removed_before_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".step_3.tmp").mkdir()
    (tmp_path / ".step_3.tmp" / "state.pt").write_bytes(b"half")
    monkeypatch.setattr(checkpoint.torch, "save", lambda *_: pytest.fail("still there") if left() else None)

    def left() -> bool:
        return (tmp_path / ".step_3.tmp").exists()

    save_state(tmp_path, 4, {"step": 4}, keep=2)


@pytest.mark.parametrize("keep", [1, 0])
def test_the_checkpoint_that_was_just_saved_stays(keep: int, tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, step, {"step": step}, keep=keep)
    assert [path.name for path in steps(tmp_path)] == ["step_2"]


def test_a_step_is_saved_again_without_a_moment_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill may come between any two changes of the folder; the checkpoint loads after each."""
    save_state(tmp_path, 4, {"step": 40}, keep=1)
    seen: list[int] = []

    def watched(name: str, owner: object) -> None:
        real = getattr(owner, name)

        def then_look(*words: object, **options: object) -> object:
            done = real(*words, **options)
            seen.append(load_state(tmp_path)[0]["step"])  # type: ignore[index]
            return done

        monkeypatch.setattr(owner, name, then_look)

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
        watched(name, Path)
    watched("rmtree", checkpoint.shutil)
    save_state(tmp_path, 4, {"step": 41}, keep=1)
    assert len(seen) >= 3 and seen == sorted(seen) and seen[-1] == 41


def test_a_file_of_a_checkpoints_name_is_an_error_that_names_it_and_stays(tmp_path: Path) -> None:
    save_state(tmp_path, 2, {"step": 2}, keep=1)
    (tmp_path / "step_3").write_text("mine")
    with pytest.raises(OSError, match="Not a directory") as caught:
        save_state(tmp_path, 3, {"step": 3}, keep=1)
    assert caught.value.filename == str(tmp_path / "step_3")
    assert (tmp_path / "step_3").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_2", "step_3"]
    save_state(tmp_path, 4, {"step": 4}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4"]


def test_what_is_renamed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after a rename must not leave a file of nothing."""
    said: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        size = os.fstat(handle).st_size
        said.append("sync" if size else "sync of nothing")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, to: said.append(f"rename {to.name}") or replace(self, to))
    save_state(tmp_path / "a", 1, {"x": torch.ones(3)}, keep=1)
    assert said == ["sync", "sync", "rename step_1", "sync"], "the file, its folder, and the folder of that"
    said.clear()
    checkpoint.save_weights({"x": torch.ones(3)}, tmp_path / "b" / "c" / "x.safetensors")
    assert said == ["sync", "rename x.safetensors", "sync"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_weights_are_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    file = tmp_path / "x.safetensors"
    wide = torch.arange(6.0).reshape(2, 3).requires_grad_()
    checkpoint.save_weights({"x": wide.t(), "again": wide.t()}, file)  # neither contiguous nor alone
    found = load_file(file)
    assert torch.equal(found["x"], wide.t()) and torch.equal(found["again"], wide.t())

    assert file.stat().st_mode & 0o777 == 0o666 & ~umask(), "as any file, others may read it"

    def full(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_weights({"x": torch.zeros(1)}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert torch.equal(load_file(file)["x"], wide.t())


def test_the_generators_go_on_where_they_were() -> None:
    state = checkpoint.random_state()
    first = torch.rand(3)
    torch.manual_seed(9)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(3), first)


def test_so_does_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: "there")
    monkeypatch.setattr(torch.cuda, "set_rng_state", asked.append)
    state = checkpoint.random_state()
    checkpoint.set_random_state(state)
    checkpoint.set_random_state({"cpu": state["cpu"]})  # of a run without one
    assert asked == ["there"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint.set_random_state(state)
    assert asked == ["there"] and checkpoint.random_state().keys() == {"cpu"}


def test_only_numbered_folders_are_checkpoints(tmp_path: Path) -> None:
    for name in ("step_2", "step_10", "step_x", ".step_11.tmp", "other_3"):
        (tmp_path / name).mkdir()
    assert [path.name for path in steps(tmp_path)] == ["step_10", "step_2"]


def test_a_folder_says_what_it_holds(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["modality"], config["dim"]) == (1, "image", 16)
    assert config["encoder"] == {"name": "vit", "options": SMALL}
    assert config["preprocess"] == create_encoder("vit", **SMALL).preprocess.config()
    head = {"kind": "Projection", "dim": 16, "out": 8, "hidden": [12], "norm": True, "bias": False}
    assert config["spaces"]["clip"] == head | {"last_norm": False, "affine": True, "gelu": False, "dropout": 0.0}
    from safetensors.torch import load_file

    starts = {key.partition(".")[0] for key in load_file(folder / "model.safetensors")}
    assert starts == {"encoder", "spaces"}


def test_preprocessing_is_restored(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    name, value = next((k, v) for k, v in config["preprocess"].items() if type(v) is int)
    config["preprocess"][name] = value + 1
    (folder / "config.json").write_text(json.dumps(config))
    assert getattr(load_encoder(folder).preprocess, name) == value + 1


def test_preprocessing_is_checked_as_its_constructor_checks_it(tmp_path: Path) -> None:
    encoder = create_encoder("pointnet", widths=[4], features=["color"])
    save_encoder(encoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert load_encoder(tmp_path).preprocess.features == ("color",), "JSON has no tuples"  # type: ignore[attr-defined]
    config["preprocess"]["features"] = ["colour"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="points have no feature 'colour'"):
        load_encoder(tmp_path)


def test_heads_of_other_files_are_named_by_their_path_and_need_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import ModuleType

    class Own(Projection):
        pass

    Own.__module__ = "their.heads"
    module = ModuleType("their.heads")
    module.Own = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.heads", module)
    encoder = create_encoder("vit", **SMALL)
    encoder.spaces["clip"] = Own(16, out=8)
    save_encoder(encoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["spaces"]["clip"]["kind"] == "their.heads:Own"
    with pytest.raises(UserError, match="trust_code=True"):
        load_encoder(tmp_path)
    assert type(load_encoder(tmp_path, trust_code=True).spaces["clip"]) is Own
    for kind, error in (
        (None, None),
        ("mmssl.types:Head", "mmssl's lie in mmssl.nn and mmssl.methods"),
        ("mmssl.nn.head:Head", "is none of the heads; expected a mmssl.types.Head"),
        ("mmssl.nn.head:append_coordinates", "is none of the heads"),
        ("append_coordinates", "is none of the heads"),
        ("Nowhere", "the module mmssl.nn.head has no 'Nowhere'"),
        ("no:where", "the module mmssl.nn.head has no 'no:where'"),
    ):
        config["spaces"]["clip"].pop("kind", None)
        config["spaces"]["clip"] |= {"kind": kind} if kind else {}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if error is None:
            assert type(load_encoder(tmp_path).spaces["clip"]) is Projection
        else:
            with pytest.raises(UserError, match=error):
                load_encoder(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_needs_both_files(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=r"is no encoder folder \(it holds [cm]"):
        load_encoder(folder)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"format": 2}'])
def test_a_config_of_another_format(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="not of mmssl's format 1"):
        load_encoder(folder)


def test_there_must_be_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no weights at"):
        checkpoint.load_weights(torch.nn.Linear(1, 1), tmp_path / "x.safetensors")


EVERY_OPTION = """
import json, resource, sys, tempfile, typing
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_encoders import CASES

from mmssl import create_encoder, load_encoder, names, save_encoder
from mmssl.errors import UserError
from mmssl.options import hints_of

VALUES = {int: (2**20, 10**9), float: (1e300, float("inf")), tuple: ([2**14] * 4, [1] * 3000)}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, used + 2**32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # a CUDA build's libraries alone may take 1 GB
for name, cases in CASES.items():
    if name in ("timm", "torchvision", "transformers"):
        continue
    encoder, folder = create_encoder(name + cases[-1][0], **cases[-1][1]), Path(tempfile.mkdtemp(dir=sys.argv[2]))
    save_encoder(encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    factory, _ = names.resolve("encoders", name)
    hints = {key: next((kind for kind in VALUES if kind.__name__ in str(hint)), None)
             for key, hint in hints_of(factory).items() if key not in ("return", "spaces", "variant")}
    changes = [("encoder", key, value) for key, kind in hints.items() if kind for value in VALUES[kind]]
    changes += [("preprocess", key, value) for key, was in config["preprocess"].items()
                for value in VALUES.get(type(was), ())]
    for part, key, value in changes:
        hostile = json.loads(json.dumps(config))
        (hostile[part]["options"] if part == "encoder" else hostile[part])[key] = value
        (folder / "config.json").write_text(json.dumps(hostile))
        try:
            load_encoder(folder)
            said = "loaded"
        except UserError as error:
            said = "refused" if str(error).count(chr(10)) == 0 else "told in several lines"
        except BaseException as error:
            said = repr(error)
        print(name, part, key, str(value)[:20], said, sep="|")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_no_option_of_an_encoder_takes_what_its_weights_do_not_speak_for(tmp_path: Path) -> None:
    """Every whole number, list and number of every encoder of ours, far too large, in a process with 4 GiB."""
    tests = str(Path(__file__).parent / "encoders")
    done = subprocess.run(
        [sys.executable, "-c", EVERY_OPTION, tests, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, VARIABLE: "network_parts=100"},  # which few layers reach
    )
    *lines, growth = done.stdout.splitlines()
    said = {tuple(line.split("|")[:4]): line.split("|")[4] for line in lines}
    assert len(said) > 100, done.stderr[-2000:]
    assert set(said.values()) == {"loaded", "refused"}, said
    whole = [key for key in said if key[3] == "1000000000"]
    assert len(whole) > 30 and all(said[key] == "refused" for key in whole)
    assert int(growth) < 2e6, "more than 2 GB, in kB"


def test_heads_are_built_within_limits(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"out": 10**9}, "spaces.clip.out is 1,000,000,000; the limit is network_option"),
        ({"out": 2**20, "hidden": [2**20]}, "bytes; the limit is network_slack"),
        ({"hidden": [1] * 5000}, "tensors; the limit is network_parts"),
    ):
        hostile = {**config, "spaces": {"clip": {**config["spaces"]["clip"], **change}}}
        (folder / "config.json").write_text(json.dumps(hostile))
        with pytest.raises(UserError, match=message):
            load_encoder(folder)


def test_what_an_input_becomes_is_within_limits(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["preprocess"]["size"] = 2**19
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"bytes; the limit is network_slack"):
        load_encoder(folder)


@pytest.mark.parametrize(
    "weight, message",
    [
        (torch.ones(16, dtype=torch.int64), "encoder.norm.weight holds torch.int64; expected torch.float32"),
        (torch.ones(16, dtype=torch.complex64), "encoder.norm.weight holds torch.complex64"),
        (torch.full((16,), torch.nan), "encoder.norm.weight holds what is no number"),
        (torch.ones(15), "do not fit the architecture"),
    ],
)
def test_weights_of_another_kind_are_refused(weight: torch.Tensor, message: str, folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    checkpoint.save_weights({**weights, "encoder.norm.weight": weight}, folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_encoder(folder)
    half = {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in weights.items()}
    half["encoder.norm.weight"][0] = torch.inf
    checkpoint.save_weights(half, folder / "model.safetensors")
    assert load_encoder(folder).norm.weight[0] == torch.inf  # type: ignore[union-attr, index]


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Marks:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "marker"),)

    save_state(tmp_path, 1, {"step": Marks()}, keep=1)
    with pytest.raises(UserError, match="step_1 does not load"):
        load_state(tmp_path)
    assert not (tmp_path / "marker").exists()
    torch.load(tmp_path / "step_1" / "state.pt", weights_only=False)
    assert (tmp_path / "marker").exists(), "it would have"
