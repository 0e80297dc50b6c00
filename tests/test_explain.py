"""`mmssl explain` and `mmssl list`: every option, variant and recipe is found, with the text that stands beside it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest

from mmssl import cli, names
from mmssl.encoders import patched, raw, sparse_unet, torchvision
from mmssl.errors import UserError
from mmssl.explain import ANY, NODES, explain
from mmssl.options import Option, describe, lines_of, texts_of
from mmssl.schema import Positive, above, at_most, spell
from mmssl.transforms.base import Step
from mmssl.transforms.catalog import CATALOG
from mmssl.types import Encoder, Evaluation, Objective, TokenEncoder, Transform, View, ViewTemplate
from mmssl.views.template import Views

CONTRACTS = (
    Encoder,
    TokenEncoder,
    View,
    Objective,
    Evaluation,
    Transform,
    Step,
)  # their lines are about attributes, Transform, Steps


def test_lines_of_a_docstring() -> None:
    text = """Does a thing.

    Prose: not an option, and neither is this: one.
    size: in pixels: of a side.
    low, high: edges of what is kept,
        in Hz.
        Both.
    prose again
        indented
    last: one
    """
    both = "edges of what is kept, in Hz. Both."
    assert lines_of(text) == {"size": "in pixels: of a side.", "low": both, "high": both, "last": "one"}
    assert lines_of(None) == {}


class Base:
    """A base.

    rate: the base's line.
    size: the base's size.
    width: an attribute, no option.
    """

    width = 3

    def __init__(self, *, rate: float = 0.5, size: int = 3) -> None: ...


class Derived(Base):
    """Has another default.

    size: its own line.
    """

    def __init__(self, *, rate: float = 0.1, size: int = 3, depth: int = 1) -> None: ...


def test_a_subclass_inherits_lines_and_may_have_its_own() -> None:
    assert texts_of(Derived) == {"rate": "the base's line.", "size": "its own line."}
    found = [(option.name, option.default, option.text) for option in describe(Derived, "objective.")]
    assert found == [
        ("objective.rate", 0.1, "the base's line."),
        ("objective.size", 3, "its own line."),
        ("objective.depth", 1, ""),
    ]


@dataclass(frozen=True)
class Crop:
    """A crop.

    scale: share of the area.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    size: Positive = 32


@dataclass
class Shown:
    """What is shown.

    flip: a probability.
    """

    crop: Crop = field(default_factory=lambda: Crop(size=64))
    flip: float = 0.5


def grouped(*, shown: Shown | None = None, crop: Crop = Crop((0.5, 1.0))) -> None:
    """Takes groups."""


def test_groups_are_told_option_by_option() -> None:
    found = {option.name: (option.default, option.text) for option in describe(grouped)}
    assert found == {
        "shown.crop.scale": ((0.2, 1.0), "share of the area."),
        "shown.crop.size": (64, ""),
        "shown.flip": (0.5, "a probability."),
        "crop.scale": ((0.5, 1.0), "share of the area."),
        "crop.size": (32, ""),
    }


class Steps(ViewTemplate):
    """Shows steps that are values."""

    def __init__(self, crop: Crop) -> None:
        self.crop = crop

    def __call__(self, preprocess: Any, **options: Any) -> None: ...

    def describe(self, prefix: str = "") -> Iterator[Option]:
        yield from describe(Crop, f"{prefix}image.crop.", self.crop)


def test_what_a_value_builds_tells_its_own_options() -> None:
    assert list(describe(Steps(Crop(size=8)), "view.")) == [
        Option("view.image.crop.scale", tuple[float, float], (0.2, 1.0), "share of the area."),
        Option("view.image.crop.size", Positive, 8, ""),
    ]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Literal["a", 2], "one of 'a', 2"),
        (Annotated[float, above(0), at_most(1)], "float above 0 and of at most 1"),
        (Positive | None, "int of at least 1 | None"),
        (list[Positive], "list[int of at least 1]"),
        (tuple[float, ...], "tuple[float, ...]"),
        (dict[str, Any], "dict[str, Any]"),
        (Crop, "a mapping of scale, size"),
        (Crop | None, "a mapping of scale, size | None"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert spell(hint) == words


def block(text: str, option: str) -> str:
    """Returns the lines about one option."""
    lines = iter(text.splitlines())
    first = next(line for line in lines if line.startswith(f"  {option}: "))
    rest = []
    for line in lines:
        if not line.startswith(" " * 6):
            break
        rest.append(line.strip())
    return "\n".join([first.strip(), " ".join(rest)])


def test_a_method_has_the_options_of_its_objective_and_of_its_view() -> None:
    text = explain("moco")
    assert text.startswith("methods/moco: MoCo: find each sample's other view")
    assert block(text, "objective.queue").startswith("objective.queue: int = 65536\nhow many keys")
    assert block(text, "objective.hidden").startswith("objective.hidden: Sequence[int] | None = null\n")
    assert "  view.image.crop.scale: tuple[float, float] = [0.2, 1]\n" in text
    assert "\nvariants:\n  moco:v2  MoCo with a hidden layer" in text and "  moco:v3  Predicts" in text
    assert "\n  image/moco\n" in text and "\n  image/moco_v2 (moco:v2)\n" in text
    second = explain("moco:v2")
    assert second.startswith("methods/moco:v2: MoCo with a hidden layer") and "variants:" not in second
    assert "  objective.temperature: float = 0.2\n" in second and "\n  image/moco_v2\n" in second
    assert "image/moco_v3" not in second and "\n  image/moco\n" not in second


def test_the_nodes_of_a_recipe() -> None:
    assert "  samples: int of at least 1, required\n" in explain("train")
    assert "  precision: one of 'auto', 'fp32', 'bf16' = auto\n" in explain("train")
    assert "  weight: float of at least 0 and below inf = 1\n" in f"{explain('task')}\n"
    data = explain("data")
    assert "  shards: str | list[str], required\n" in data and "  workers: int" in data
    assert not {"  batch: ", "  rank: ", "  seed: "} & {line[: line.find(":") + 2] for line in data.splitlines()}


def test_an_encoder_says_its_variants_and_who_uses_it() -> None:
    text = explain("raw")
    assert "  variant: one of 'image', 'video', 'audio', 'points', required\n" in text
    assert "variants:\n  raw:image\n  raw:video\n  raw:audio\n  raw:points" in text
    assert "  image/moco (timm:resnet50)\n" in explain("timm")
    assert "\n  audio/mae_digits" in explain("vit"), "an encoder within another one counts"


def test_a_name_of_two_rooms_needs_the_room() -> None:
    with pytest.raises(UserError, match=r"'localize' is one of the evals and one of the plots; say which: `mmssl ex"):
        explain("localize")
    assert explain("plots/localize").startswith("plots/localize: ")
    assert explain("localize", "evals").startswith("evals/localize: ")
    assert names.spelled("evals", "localize") == "evals/localize" and names.spelled("methods", "moco:v2") == "moco:v2"
    with pytest.raises(UserError, match="nothing is called 'mocco'; did you mean 'moco'"):
        explain("mocco")
    with pytest.raises(UserError, match="there is no method 'mocco'; did you mean 'moco'"):
        explain("methods/mocco")
    for name, known in (
        ("moco:v4", "known: v2, v3"),
        ("vit:huge", "known: base, large"),
        ("sgd:x", "none is known"),
    ):
        with pytest.raises(UserError, match=f"has no variant '{name.partition(':')[2]}'; {known}"):
            explain(name)
    assert explain("timm:resnet18").startswith("encoders/timm:resnet18: Any backbone of timm")


class Own:
    """The user's own view."""

    def __init__(self, variant: str = "plain", *, size: int = 3) -> None: ...


def test_ones_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("their.code")
    module.optimizer = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.code", module)
    text = explain("their.code", "optim")
    assert text.startswith("optim/their.code: The user's own view.") and "  size: int = 3" in text
    assert "  variant: str = plain" in text
    with pytest.raises(UserError, match="'their.code' names your own code; add --room"):
        explain("their.code")
    with pytest.raises(UserError, match="has no option 'sise'.*; see: mmssl explain their.code --room optim$"):
        names.build("optim", "their.code", sise=1)


EVERY = [(room, name) for room in names.EXPORTS for name in names.list_names(room)]


def parts(thing: Any) -> list[Any]:
    """Returns what has options: of a template of views its steps and the class that it builds."""
    if not isinstance(thing, Views):
        return [thing]
    steps = [type(step) for steps in (*thing.modalities.values(), thing.after) for step in steps]
    return [thing.kind, *steps, *(part for group in thing.groups.values() for part in parts(group))]


def factories() -> dict[str, Any]:
    """Returns `file:name` -> class or function, for whatever has options that a recipe can set, and their bases."""
    found = [node for nodes in (*NODES.values(), *ANY.values()) for node in nodes]
    for room, name in EVERY:
        for variant in ("", *(f":{key}" for key in names.list_variants(room, name) if room == "methods")):
            thing, _ = names.resolve(room, name + variant)
            found += [*parts(thing.view), thing.objective] if room == "methods" else parts(thing)
    found += [kind for kinds in CATALOG.values() for kind in kinds.values()]
    lines = [getattr(kind, "__mro__", (kind,)) for kind in found]
    ours = {kind for line in lines for kind in line if kind.__module__.startswith("mmssl") and kind not in CONTRACTS}
    return {f"{kind.__module__.removeprefix('mmssl.')}:{getattr(kind, '__name__', id(kind))}": kind for kind in ours}


def test_every_option_has_its_line_where_it_is_defined_and_no_line_is_about_none() -> None:
    wrong = {}
    for key, kind in factories().items():
        own = {*lines_of(kind.__doc__)} if kind.__doc__ else set()
        silent = {option.name for option in describe(kind) if not option.text}
        if faults := silent | (own - {*inspect.signature(kind).parameters} if hasattr(kind, "__name__") else set()):
            wrong[key] = faults
    assert wrong == {}


@pytest.mark.parametrize(("room", "name"), EVERY)
def test_whatever_is_listed_is_explained(room: str, name: str) -> None:
    text = explain(name, room)
    assert text.startswith(f"{room}/{name}: ") and "<" not in text.replace("<b<c<d<e", "") and "Only(" not in text
    for key in names.list_variants(room, name):
        if key != "VARIANT":
            assert explain(f"{name}:{key}", room).startswith(f"{room}/{name}:{key}: ")


def test_variants_are_those_that_there_are() -> None:
    for name, known in (
        ("vit", patched.VARIANTS),
        ("video_vit", patched.VARIANTS),
        ("torchvision", torchvision.VARIANTS),
        ("sparse_unet", sparse_unet.VARIANTS),
        ("raw", raw.PREPROCESS),
    ):
        assert list(names.list_variants("encoders", name)) == list(known)
    assert list(names.list_variants("encoders", "timm")) == ["VARIANT"]
    assert names.list_variants("encoders", "convnet") == {} == names.list_variants("optim", "sgd")
    assert list(names.list_variants("methods", "moco")) == ["v2", "v3"]


def test_recipes_are_known_by_what_they_name() -> None:
    found = names.recipes()
    assert ("views", "infomin") in found["image/infomin"] and ("methods", "moco:v2") in found["image/infomin"]
    assert {("encoders", "spectrogram"), ("encoders", "vit")} <= {*found["audio/mae_digits"]}
    assert all(any(room == "methods" for room, _ in uses) for uses in found.values())


def test_lists_show_variants_and_what_recipes_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert next(row for row in rows if row.startswith("moco:v2 ")).split(maxsplit=1)[1].startswith("MoCo with a hidden")
    assert cli.main(["list", "configs"]) == 0
    row = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("image/moco_v2 "))
    assert row.endswith("(moco:v2, timm:resnet50)")
    assert cli.main(["explain", "encoders/raw"]) == 0
    assert "variants:" in capsys.readouterr().out
    assert cli.main(["explain", "localize"]) == 2
