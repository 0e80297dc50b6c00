import ast
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any, Literal

import pytest

from mmssl import names, types
from mmssl.errors import UserError


def made(
    first: int, *, size: int, rate: float = 0.1, kind: Literal["a", "b"] = "a", sizes: tuple[int, ...] = ()
) -> None:
    """A factory to check options against."""


def refuses(match: str, **options: object) -> None:
    with pytest.raises(UserError, match=match):
        names.check_options(made, options, where="here")


def test_the_signature_is_the_schema() -> None:
    refuses("here: made has no option 'siez'; did you mean 'size'", siez=1)
    refuses("here: made needs the option 'size'")
    refuses("size is 'big'; expected int", size="big")
    refuses("size is True; expected int", size=True)
    refuses("kind is 'c'; expected one of 'a', 'b'", size=1, kind="c")
    refuses("sizes is .*1, 'x'", size=1, sizes=[1, "x"])


def test_values_take_their_declared_types() -> None:
    assert names.check_options(made, {"size": 3.0, "rate": "1e-4", "sizes": [1, 2]}) == {
        "size": 3,
        "rate": 1e-4,
        "sizes": (1, 2),
    }


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(UserError, match="there is no method 'clipp'; did you mean 'clip'"):
        names.resolve("methods", "clipp")
    with pytest.raises(UserError, match="there is no module 'nowhere'"):
        names.resolve("methods", "nowhere.at.all:method")
    with pytest.raises(UserError, match="'convnet' has no variant 'x'"):
        names.build("encoders", "convnet:x")
    with pytest.raises(UserError, match="say which variant"):
        names.build("encoders", "timm")


def test_own_code_is_a_dotted_path_and_needs_trust() -> None:
    with pytest.raises(UserError, match=r"is none of the encoders; expected a mmssl\.types\.Encoder"):
        names.resolve("encoders", "collections.abc:Mapping")
    with pytest.raises(UserError, match="trust_code"):
        names.resolve("encoders", "collections.abc:Mapping", trust_code=False)


@pytest.mark.parametrize("room", ["encoders", "methods", "evals", "datasets", "configs", "views", "optim"])
def test_everything_listed_says_what_it_is(room: str) -> None:
    found = names.list_names(room)
    assert found
    for name, line in found.items():
        assert len(line) > 10, f"{room}/{name} has no first docstring line"


@pytest.mark.parametrize("dataset", names.list_names("datasets"))
def test_every_card_is_read(dataset: str) -> None:
    assert names.read_card(dataset)["about"].strip()


def test_a_card_that_is_none_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "home", lambda room: tmp_path)
    (tmp_path / "birds").mkdir()
    for text, message in (
        ("about: [", "is not YAML"),
        ("- 1", "is [1]; expected a mapping with "),
        ("factors: {}", "about is missing; expected str"),
        ("about: x\nfactors: {size: small}", "factors is {'size': 'small'}; expected dict"),
    ):
        (tmp_path / "birds" / "card.yaml").write_text(text)
        with pytest.raises(UserError) as caught:
            names.read_card("birds")
        assert message in str(caught.value) and "card.yaml" in str(caught.value)


class Base:
    def __init__(self, *, size: int = 3, rate: float = 0.5) -> None:
        self.size, self.rate = size, rate


class Derived(Base):
    def __init__(self, *, depth: int = 1, rate: float = 0.1, **shared: object) -> None:
        super().__init__(rate=rate, **shared)  # type: ignore[arg-type]
        self.depth = depth


class Further(Derived):
    """Has its base's constructor."""


@pytest.mark.parametrize("kind", [Derived, Further])
def test_a_class_that_hands_options_on_has_those_of_its_base(kind: type[Derived]) -> None:
    assert set(names.options_of(kind)) == {"size", "rate", "depth"}
    assert names.options_of(kind)["rate"].default == 0.1
    assert kind(**names.check_options(kind, {"size": 7, "depth": 2})).size == 7
    with pytest.raises(UserError, match="size is 'x'; expected int"):
        names.check_options(kind, {"size": "x"})
    with pytest.raises(UserError, match="has no option 'dept'"):
        names.check_options(kind, {"dept": 1})


FILES = sorted(file for file in names.PACKAGE.rglob("*.py") if "_assets" not in file.parts)
KINDS = {"encoders": "Encoder", "heads": "Head", "evals": "Evaluation", "views": "View"}
OPTIMIZERS = {"adamw", "lars", "sgd"}
PICTURES = {"localize", "order", "pca", "propagate", "register", "retrieval"}
PICTURES |= {"attention", "embedding", "neighbors", "reconstruct", "similarity"}


@functools.cache
def reached() -> list[str]:
    """Returns `module:attribute` for all that any module of the package defines or imports at its top."""
    found = []
    for file in FILES:
        module = ".".join(file.relative_to(names.PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found += [f"{module}:{name}" for name in _bound(ast.parse(file.read_text()))] + [module]
    return found


def _bound(tree: ast.Module) -> set[str]:
    found = names._top_level_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return found | {"__builtins__", "__loader__", "__spec__", "__getattr__"}


def is_of(room: str, name: str, found: Any) -> bool:
    """Tells whether what a name stands for is what its room holds."""
    if room == "methods":
        return isinstance(found, types.Method)
    if room == "views" and isinstance(found, types.ViewTemplate):
        return True
    if room in KINDS:
        return inspect.isclass(found) and found.__mro__.index(getattr(types, KINDS[room])) > 0
    files = {"optim": OPTIMIZERS, "plots": PICTURES}[room]
    return (
        inspect.isfunction(found)
        and found.__module__.split(".")[1:2] == [room]
        and found.__module__.split(".")[2] in files
    )


@pytest.mark.parametrize("room", [*KINDS, "methods", "optim", "plots"])
def test_of_all_that_the_package_holds_a_name_reaches_its_rooms_kind_alone(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = reached()
    assert len(every) > 4000 and {"mmssl.cli:main", "mmssl.demo:demo", "mmssl.prepare:subprocess"} <= {*every}
    imported: list[str] = []
    real = importlib.import_module

    def spy(path: str, package: str | None = None) -> Any:
        if path.startswith("mmssl."):  # libraries import their own parts as these are asked for
            imported.append(path)
        return real(path, package)

    monkeypatch.setattr(importlib, "import_module", spy)
    kept = []
    for name in every:
        try:
            found, _ = names.resolve(room, name, trust_code=False)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert is_of(room, name, found), name
            kept.append(found)
    assert {path.split(".")[1] for path in imported} <= {*names.FOLDERS.get(room, (room,))}, "others are not imported"
    if room in names.EXPORTS:
        assert all(names.resolve(room, name)[0] in kept for name in names.list_names(room))


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("encoders", "mmssl.encoders.vit:TokenEncoder"),
        ("encoders", "mmssl.types:Encoder"),
        ("encoders", "mmssl.encoders:create_encoder"),
        ("encoders", "mmssl.demo:demo"),
        ("encoders", "mmssl.evals.knn:evaluation"),
        ("encoders", "mmssl.__main__:main"),
        ("encoders", "mmssl.encoders.timm:timm:x"),
        ("methods", "mmssl.methods.clip:CLIP"),
        ("methods", "mmssl.methods.clip:Method"),
        ("views", "mmssl.methods.clip:method"),
        ("views", "mmssl.views.composed:View"),
        ("evals", "mmssl.evals.knn:Labelled"),
        ("optim", "mmssl.optim.groups:param_groups"),
        ("optim", "mmssl.optim.adamw:torch"),
        ("plots", "mmssl.plots.pca:tiles"),
    ],
)
def test_trusted_or_not_it_must_be_of_the_kind(room: str, name: str) -> None:
    for trust_code in (False, True):
        try:
            found, variant = names.resolve(room, name, trust_code=trust_code)
        except UserError as error:
            assert "is none of the" in str(error)
        else:
            assert variant == name.partition(":")[2] and is_of(room, name, found)


@pytest.mark.parametrize("room", ["encoders", "methods"])
def test_a_long_name_does_not_fill_the_screen(room: str) -> None:
    for name in ("x" * 10**6, "x." * 10**6, f"their.{'x' * 10**6}:y", f"mmssl.encoders.{'x' * 10**6}"):
        for trust_code in (False, True):
            with pytest.raises(UserError) as caught:
                names.resolve(room, name, trust_code=trust_code)
            assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "name",
    ["", ":", ".", "..", ".x:y", "mmssl.", "mmssl..cli:main", "mmssl.encoders.:x", "a b.c", "\0.x:y", "\ud800.x"],
)
def test_what_is_no_path_is_one_line(name: str) -> None:
    for trust_code in (False, True):
        with pytest.raises(UserError) as caught:
            names.resolve("encoders", name, trust_code=trust_code)
        assert str(caught.value).isprintable()
