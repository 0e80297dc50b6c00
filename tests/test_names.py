from pathlib import Path
from typing import Literal

import pytest

from mmssl import names
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
    assert names.resolve("encoders", "collections.abc:Mapping")[0].__name__ == "Mapping"
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
