"""How values meet the types that an option declares, and how names are found."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from mmssl import names
from mmssl.errors import UserError
from mmssl.schema import fit


class Kind:
    pass


KIND = Kind()
FITS: list[tuple[Any, Any, Any]] = [
    (Any, KIND, KIND),
    (float, 1, 1.0),
    (float, "1e-4", 1e-4),
    (float, "inf", math.inf),
    (int, 3.0, 3),
    (int, -2, -2),
    (bool, True, True),
    (str, "x", "x"),
    (None, None, None),
    (float | None, None, None),
    (float | None, 2, 2.0),
    (int | float, 2, 2),
    (int | float, 2.0, 2.0),
    (int | float, 2.5, 2.5),
    (float | tuple[float, ...], [1, 2], (1.0, 2.0)),
    (str | list[str], "x", "x"),
    (str | list[str], ["x"], ["x"]),
    (bool | float, True, True),
    (Literal["a", 2], 2, 2),
    (tuple[float, float], [1, 2], (1.0, 2.0)),
    (tuple[int, ...], [], ()),
    (tuple[int, str], [1, "x"], (1, "x")),
    (list[int], (1, 2.0), [1, 2]),
    (list, [1, "x"], [1, "x"]),
    (tuple, [1, "x"], (1, "x")),
    (list[tuple[str, str]], [["a", "b"]], [("a", "b")]),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (dict[str, Any], {"a": [1]}, {"a": [1]}),
    (dict, {"a": 1}, {"a": 1}),
    (Path, "x/y", Path("x/y")),
    (Path, Path("x"), Path("x")),
    (Kind, KIND, KIND),
]
REFUSED: list[tuple[Any, Any, str]] = [
    (float, True, "expected float"),
    (float, False, "expected float"),
    (float, None, "expected float"),
    (float, "fast", "expected float"),
    (float, [1], "expected float"),
    (int, True, "expected int"),
    (int, 2.5, "expected int"),
    (int, "2", "expected int"),
    (bool, 1, "expected bool"),
    (str, 1, "expected str"),
    (None, 0, "expected None"),
    (float | None, True, "expected float | None"),
    (float | None, "x", "expected float | None"),
    (Literal["a", "b"], "c", "expected one of 'a', 'b'"),
    (tuple[float, float], [1], "expected tuple[float, float]"),
    (tuple[float, float], [1, 2, 3], "expected tuple[float, float]"),
    (tuple[float, float], [1, True], "expected tuple[float, float]"),
    (tuple[int, ...], [1, "x"], "expected tuple[int, ...]"),
    (list[int], "12", "expected list[int]"),
    (list[int], {"a": 1}, "expected list[int]"),
    (dict[str, float], {"a": "x"}, "expected dict[str, float]"),
    (dict[str, float], [1], "expected dict[str, float]"),
    (Path, 3, "expected Path"),
    (Kind, 3, "expected Kind"),
]


@pytest.mark.parametrize(("hint", "value", "expected"), FITS)
def test_a_value_becomes_what_its_option_declares(hint: Any, value: Any, expected: Any) -> None:
    found = fit(value, hint, "option")
    assert found == expected and type(found) is type(expected)
    if isinstance(found, list | tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(("hint", "value", "said"), REFUSED)
def test_a_value_of_another_type_is_refused(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        fit(value, hint, "here: option")
    assert str(caught.value) == f"here: option is {value!r}; {said}"


def test_every_value_of_a_mapping_is_changed() -> None:
    assert fit({"a": 1, "b": "2"}, dict[str, float], "x") == {"a": 1.0, "b": 2.0}


def wants(first: int, second: int = 2, *, size: int, rate: float = 0.5, free=None) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
    """Takes two arguments by place."""
    return first, second, size, rate, free


def varied(variant: str, first: int = 0, *, size: int = 1) -> tuple[Any, ...]:
    return variant, first, size


def sometimes(variant: str = "plain", *, size: int = 1) -> tuple[Any, ...]:
    return variant, size


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("their.code")
    for name, value in {"wants": wants, "varied": varied, "sometimes": sometimes, "_hidden": wants}.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.code", module)
    return module


def test_only_keywords_are_options() -> None:
    assert list(names.options_of(wants)) == ["size", "rate", "free"]
    assert names.check_options(wants, {"size": 1, "free": KIND}) == {"size": 1, "free": KIND}
    with pytest.raises(UserError, match=r"^wants has no option 'first'"):
        names.check_options(wants, {"size": 1, "first": 2})
    with pytest.raises(UserError, match=r"^at: wants needs the option 'size'$"):
        names.check_options(wants, {}, where="at")
    with pytest.raises(UserError, match=r"^at: rate is True; expected float$"):
        names.check_options(wants, {"size": 1, "rate": True}, where="at")


@dataclass(frozen=True)
class Crop:
    scale: tuple[float, float] = (0.2, 1.0)
    size: int = 32


@dataclass(frozen=True)
class Shown:
    crop: Crop = Crop(size=64)
    flip: float = 0.5


def grouped(*, shown: Shown = Shown(flip=0.1), crop: Crop | None = None) -> None:
    """Takes groups of options."""


def test_a_mapping_changes_what_it_names_of_a_group_of_options() -> None:
    found = names.check_options(grouped, {"shown": {"crop": {"scale": [0.5, 1]}}, "crop": {"size": 8}})
    assert found == {"shown": Shown(Crop((0.5, 1.0), 64), 0.1), "crop": Crop((0.2, 1.0), 8)}
    assert names.check_options(grouped, {"shown": Shown(), "crop": None}) == {"shown": Shown(), "crop": None}
    with pytest.raises(UserError, match=r"^view: shown: crop has no option 'scael'; did you mean 'scale'\?$"):
        names.check_options(grouped, {"shown": {"crop": {"scael": 1}}}, where="view")
    with pytest.raises(UserError, match=r"^view: shown: flip is 'x'; expected float$"):
        names.check_options(grouped, {"shown": {"flip": "x"}}, where="view")


def test_an_unknown_option_says_which_command_explains_them(own: ModuleType) -> None:
    with pytest.raises(
        UserError, match=r"^node: ConvNet has no option 'widht'; did you mean 'widths'\?; see: mmssl explain convnet$"
    ):
        names.build("encoders", "convnet", where="node", widht=1)
    with pytest.raises(UserError, match=r"^wants needs the option 'size'; see: mmssl explain it$"):
        names.check_options(wants, {}, see="it")
    with pytest.raises(UserError, match=r"^crop has no option 'sise'; did you mean 'size'\?; see: mmssl explain it$"):
        names.check_options(grouped, {"crop": {"sise": 1}}, see="it")


def test_building_passes_arguments_and_options_on(own: ModuleType) -> None:
    assert names.build("optim", "their.code:wants", 7, 8, size=3.0, rate="1e-2") == (7, 8, 3, 0.01, None)
    with pytest.raises(UserError, match=r"^node: wants has no option 'sise'"):
        names.build("optim", "their.code:wants", 7, where="node", size=1, sise=2)
    with pytest.raises(UserError, match=r"^their.code:wants: wants needs the option 'size'"):
        names.build("optim", "their.code:wants", 7)
    with pytest.raises(UserError, match="trust_code=True"):
        names.build("optim", "their.code:wants", 7, size=1, trust_code=False)


def test_variants(own: ModuleType) -> None:
    own.optimizer = varied  # type: ignore[attr-defined]
    assert names.resolve("optim", "their.code:small") == (varied, "small")
    assert names.build("optim", "their.code:small", 5, size=2) == ("small", 5, 2)
    with pytest.raises(UserError, match=r"^node: say which variant, as in 'their.code:VARIANT'"):
        names.build("optim", "their.code", where="node")
    with pytest.raises(UserError, match=r"^their.code: say which variant"):
        names.build("optim", "their.code")
    own.optimizer = sometimes  # type: ignore[attr-defined]
    assert names.build("optim", "their.code", size=2) == ("plain", 2)
    own.optimizer = wants  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^node: 'their.code' has no variant 'small'"):
        names.build("optim", "their.code:small", where="node")
    with pytest.raises(UserError, match=r"^their.code:small: 'their.code' has no variant 'small'"):
        names.build("optim", "their.code:small")
    assert names.resolve("optim", "their.code:_hidden") == (wants, "_hidden"), "what is private is not reached"


def test_names_that_lead_nowhere(own: ModuleType) -> None:
    with pytest.raises(UserError, match=r"'their.code:small': the module their.code has no 'small'"):
        names.resolve("encoders", "their.code:small")
    with pytest.raises(UserError, match=r"'their.code': the module their.code has no 'method'"):
        names.resolve("methods", "their.code")
    with pytest.raises(UserError, match=r"there is no module 'nowhere'"):
        names.resolve("methods", "nowhere.code")
    with pytest.raises(UserError, match=r"there is no encoder '__init__'"):
        names.resolve("encoders", "__init__")
    with pytest.raises(UserError, match=r"there is no encoder 'bpe'"):  # a file of the room that exports none
        names.resolve("encoders", "bpe")
    with pytest.raises(UserError, match=r"there is no encoder 'a/b.c'"):
        names.resolve("encoders", "a/b.c")
    with pytest.raises(UserError, match=r"nothing is listed under 'encoder'; did you mean 'encoders'"):
        names.list_names("encoder")


def test_a_package_that_is_missing_is_named(own: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "needy.py").write_text("import nosuchpackage\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"'lone.needy' needs the package 'nosuchpackage': pip install nosuchpackage"):
        names.resolve("encoders", "lone.needy")
    with pytest.raises(UserError, match=r"there is no module 'lone.absent' on the Python path"):
        names.resolve("encoders", "lone.absent")


def test_of_a_file_counts_what_its_room_holds() -> None:
    from mmssl.methods import clip, moco

    assert names.resolve("methods", "clip:CLIP") == (clip.method, "CLIP"), "an objective is no method"
    assert names.resolve("methods", "moco:v2") == (moco.v2, None)
    assert names.resolve("methods", "clip") == (clip.method, None)
    assert names.resolve("methods", "mmssl.methods.clip:method") == (clip.method, None)
    assert names.resolve("methods", "clip:nothing") == (clip.method, "nothing")


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("clip", False),
        ("timm:a.b", False),
        ("mmssl.methods.clip:method", False),
        ("mmsslx.methods", True),
        ("their.code:encoder", True),
        ("hub/a.b:x", False),
    ],
)
def test_code_outside_needs_trust(name: str, foreign: bool) -> None:
    names.refuse_foreign(name, trust_code=True)
    with pytest.raises(UserError, match="names code outside mmssl") if foreign else nullcontext():
        names.refuse_foreign(name, trust_code=False)


def test_lists_give_the_first_line_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "PACKAGE", tmp_path / "mmssl")
    files = {
        "mmssl/encoders/one.py": '"""\n\n  First line.\n\nMore."""\nencoder = 3\n',
        "mmssl/encoders/two.py": '"""Second."""\ndef encoder(): ...\n',
        "mmssl/encoders/three.py": "class encoder: ...\n",
        "mmssl/encoders/helper.py": '"""No encoder."""\nother = encoder = None\nx: int = 0\n'.replace(
            "encoder =", "e ="
        ),
        "datasets/birds/card.yaml": "name: birds\nabout: |-\n  Birds.\n  More.\n",
        "configs/image/clip.yaml": "# CLIP on birds.\nname: clip\n",
        "configs/audio/clip.yaml": "# CLIP on songs.\n",
        "datasets/ants/card.yaml": "about: Ants.\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(sorted(real(self, pattern), reverse=True)))
    lists = {
        "encoders": [("one", "First line."), ("three", ""), ("two", "Second.")],
        "datasets": [("ants", "Ants."), ("birds", "Birds.")],
        "configs": [("audio/clip", "CLIP on songs."), ("image/clip", "CLIP on birds.")],
    }
    for room, expected in lists.items():
        assert list(names.list_names(room).items()) == expected, "in order, whatever the disk's is"
    assert names.home("configs") == tmp_path / "configs"
    (tmp_path / "mmssl/_assets/configs").mkdir(parents=True)
    assert names.home("configs") == tmp_path / "mmssl/_assets/configs", "as a wheel has them"
    assert names.home("datasets") == tmp_path / "datasets" and names.home("evals") == tmp_path / "mmssl/evals"
