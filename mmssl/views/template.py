"""Views as a value: how many there are, and the steps that each modality goes through."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmssl import names
from mmssl.errors import UserError, did_you_mean
from mmssl.options import Option, describe
from mmssl.schema import Positive, fit, shortened
from mmssl.transforms.base import OnBatch, OnDevice, Step, step_name
from mmssl.transforms.catalog import CATALOG
from mmssl.transforms.fields import Kind
from mmssl.types import Preprocess, Transform, View, ViewTemplate


def composed() -> type[View]:
    """Returns the class that is built where no other is named."""
    from mmssl.views.composed import Composed

    return Composed


@dataclass(init=False)
class Views(ViewTemplate):
    """What a method shows: `views` of each modality, by steps that recipes override as `view.image.crop.scale`.

    views: how often every modality is shown.
    modalities: steps by modality, or by an encoder's key; videos are shown as images are where nothing else is said.
    groups: further views by name, with steps of their own, such as the small crops of multi-crop.
    fixed: whether their number is the method's own, and no option.
    after: steps on the whole batch, in the end; those on images or videos change every view.
    fields: what of a sample moves with its image, by name, and its kind; an encoder of that name is shown it.
    guards: what keeps shortcuts away: name -> the options that would let it down.
    kind: the class of View that is built, whose keyword options recipes set too.
    """

    views: int
    fixed: bool
    modalities: dict[str, list[Transform]]
    groups: dict[str, Views]
    after: list[OnBatch | OnDevice]
    fields: dict[str, Kind]
    guards: Mapping[str, Mapping[str, Any]]
    kind: type[View]
    options: dict[str, Any] = field(default_factory=dict)
    changed_keys: set[str] = field(default_factory=set)

    def __init__(
        self,
        views: int = 1,
        *,
        fixed: bool = False,
        after: Sequence[OnBatch | OnDevice] = (),
        fields: Mapping[str, Kind] | None = None,
        guards: Mapping[str, Mapping[str, Any]] | None = None,
        kind: type[View] | None = None,
        **parts: Sequence[Transform] | Views,
    ) -> None:
        self.views, self.fixed, self.after, self.kind = views, fixed, list(after), kind or composed()
        self.fields, self.guards = dict(fields or {}), guards or {}
        self.groups = {key: part for key, part in parts.items() if isinstance(part, Views)}
        self.modalities = {key: list(part) for key, part in parts.items() if not isinstance(part, Views)}
        self.options, self.changed_keys = {}, set()

    def __call__(self, preprocess: Mapping[str, Preprocess], **options: Any) -> View:
        """Builds the View for encoders' preprocessing."""
        made = self.changed(options)
        return made.kind(preprocess, made, **made.options)  # type: ignore[call-arg]

    def group_sizes(self) -> list[tuple[str, int]]:
        """Returns the name, "" for the first, and number of views of each group."""
        return [("", self.views), *((name, group.views) for name, group in self.groups.items())]

    def steps(self, key: str, modality: str) -> list[list[Transform]]:
        """Returns the steps of each view of a modality; further groups show those that they have steps for."""
        found = [self._of(key, modality) or []] * self.views
        every = [[step.of_view(number, self.views) for step in steps] for number, steps in enumerate(found)]
        for group in self.groups.values():
            mine = group._of(key, modality)
            if mine is not None:
                every += [[step.of_view(n, group.views) for step in mine] for n in range(group.views)]
        return every

    def _of(self, key: str, modality: str) -> list[Transform] | None:
        """Returns the steps by key, by modality, or of a video those of images."""
        for name in (key, modality, *(["image"] if modality == "video" else [])):
            if name in self.modalities:
                return self.modalities[name]
        return None

    def changed(self, options: Mapping[str, Any], where: str = "") -> Views:
        """Returns the template with options; UserError for one that it has not."""
        made = replace_all(self)
        own = names.options_of(self.kind)
        for key, value in fit(options, dict[str, Any], where or "view").items():
            at = f"{where}.{key}" if where else key
            if key == "views":
                made.views = self._views(value, at)
            elif key == "fields":
                made.fields = {**self.fields, **fit(value, dict[str, Kind], at)}
            elif key in self.groups:
                made._change_group(key, value, at)
            elif key in own:
                made.options[key] = names.check_options(self.kind, {key: value}, where=where)[key]
            elif key in (known := [step_name(type(step)) for step in made.after]):
                place = known.index(key)
                made.after[place : place + 1] = [] if value is None else [with_options(made.after[place], value, at)]
            else:
                made.modalities[key] = self._modality(key, value, where, at)
                made.changed_keys.add(key)
        return made

    def describe(self, prefix: str = "") -> Iterator[Option]:
        if not self._fixed:
            yield Option(f"{prefix}views", Positive, self.views, "how often every modality is shown.")
        for option in describe(self.kind):
            yield replace(option, name=f"{prefix}{option.name}", default=self.options.get(option.name, option.default))
        for key, steps in self.modalities.items():
            for step in steps:
                yield from describe(type(step), f"{prefix}{key}.{step_name(type(step))}.", step)
        for step in self.after:
            yield from describe(type(step), f"{prefix}{step_name(type(step))}.", step)
        for name, group in self.groups.items():
            yield from group.describe(f"{prefix}{name}.")

    @property
    def _fixed(self) -> bool:
        """Whether the number of views is no option."""
        return self.fixed or any(step.single for step in self._steps())

    def _change_group(self, name: str, value: Any, at: str) -> None:
        """Changes further views, or leaves them out."""
        group = self.groups.pop(name)
        if value is not None:
            self.groups[name] = group.changed(value, at)
            self.changed_keys |= self.groups[name].changed_keys

    def _views(self, value: Any, at: str) -> int:
        views: int = fit(value, Positive, at)
        if views != self.views and self._fixed:
            raise UserError(f"{at} is {views}; this task makes its views of {self.views} itself")
        return views

    def _steps(self) -> Iterator[Step]:
        """Yields all steps that have options of mmssl's kind."""
        every = [*self.after, *(step for steps in self.modalities.values() for step in steps)]
        yield from (step for step in every if isinstance(step, Step))
        for group in self.groups.values():
            yield from group._steps()

    def _modality(self, key: str, value: Any, where: str, at: str) -> list[Transform]:
        """Returns a modality's steps, changed one by one by a mapping, or all replaced by a list."""
        if key not in CATALOG and key not in self.modalities and not isinstance(value, list):
            raise UserError(f"{where or 'view'} has no option {shortened(key)}; {did_you_mean(key, self._known())}")
        if isinstance(value, list):
            return [named_step(key, item, f"{at}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            raise UserError(f"{at} is {shortened(value)}; expected a mapping of steps to options, or a list of steps")
        steps = list(self._of(key, key) or [])
        for name, options in value.items():
            place = next((i for i, step in enumerate(steps) if step_name(type(step)) == name), len(steps))
            if options is None:
                changed = []
            elif place < len(steps):
                changed = [with_options(steps[place], options, f"{at}.{name}")]
            else:
                changed = [made_step(known_step(key, name, at), options, f"{at}.{name}")]
            steps[place : place + 1] = changed
        return steps

    def _known(self) -> list[str]:
        """Returns the names of all options."""
        after = [step_name(type(step)) for step in self.after]
        return ["views", "fields", *names.options_of(self.kind), *self.groups, *after, *self.modalities, *CATALOG]


def replace_all(template: Views) -> Views:
    """Returns a copy whose lists can be changed."""
    made = copy.copy(template)
    made.after, made.groups, made.options = list(made.after), dict(made.groups), dict(made.options)
    made.modalities = {key: list(steps) for key, steps in template.modalities.items()}
    made.changed_keys = set(template.changed_keys)
    return made


def with_options(step: Any, options: Any, where: str) -> Any:
    """Returns a step with some options changed."""
    checked = names.check_options(type(step), fit(options, dict[str, Any], where), where=where)
    return _made(lambda: replace(step, **checked), where)


def named_step(modality: str, item: Any, where: str) -> Transform:
    """Builds a step that a recipe names: `crop`, {name: crop, scale: [0.2, 1]}, or {name: "my.module:Class"}."""
    options = {"name": item} if isinstance(item, str) else dict(fit(item, dict[str, Any], where))
    name: str = fit(options.pop("name", None), str, f"{where}.name")
    # Code of one's own stands under the key `name` alone, where the recipe of a stranger is searched for it.
    own = ":" in name and not isinstance(item, str)
    kind = names.resolve("transforms", name)[0] if own else known_step(modality, name, where)
    return made_step(kind, options, where)


def known_step(modality: str, name: str, where: str) -> type[Transform]:
    """Returns the class of a step of mmssl; UserError where the modality has none of this name."""
    known = CATALOG.get(modality, {})
    if name not in known:
        raise UserError(f"{where}: there is no step {shortened(name)} for {modality}; {did_you_mean(name, known)}")
    return known[name]


def made_step(kind: type[Transform], options: Any, where: str) -> Transform:
    """Builds a step with checked options."""
    checked = names.check_options(kind, fit(options, dict[str, Any], where), where=where)
    return _made(lambda: kind(**checked), where)


def _made(make: Callable[[], Any], where: str) -> Any:
    """Returns what is made; a UserError says of which node of the recipe it is."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
