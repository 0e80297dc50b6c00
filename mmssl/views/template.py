"""Views as a value: how many there are, and the steps that each modality goes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmssl import names
from mmssl.errors import UserError, did_you_mean
from mmssl.options import Option, describe
from mmssl.schema import Positive, fit, shortened
from mmssl.transforms.base import OnBatch, step_name
from mmssl.transforms.catalog import CATALOG
from mmssl.transforms.fields import Kind
from mmssl.types import Preprocess, Transform, View, ViewTemplate

Parts = Mapping[str, Sequence[Transform]]


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
    after: steps on the whole batch, in the end.
    fields: what of a sample moves with its image, by name, and its kind; an encoder of that name is shown it.
    guards: what keeps shortcuts away: name -> the options that would let it down.
    kind: the class of View that is built, whose keyword options recipes set too.
    """

    views: int
    modalities: dict[str, list[Transform]]
    groups: dict[str, Views]
    after: list[OnBatch]
    fields: dict[str, Kind]
    guards: Mapping[str, Mapping[str, Any]]
    kind: type[View]
    options: dict[str, Any] = field(default_factory=dict)
    changed_keys: set[str] = field(default_factory=set)

    def __init__(
        self,
        views: int = 1,
        *,
        after: Sequence[OnBatch] = (),
        fields: Mapping[str, Kind] | None = None,
        guards: Mapping[str, Mapping[str, Any]] | None = None,
        kind: type[View] | None = None,
        **parts: Sequence[Transform] | Views,
    ) -> None:
        self.views, self.after, self.kind = views, list(after), kind or composed()
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
                made.groups |= {key: self.groups[key].changed(value, at)} if value is not None else {}
                made.groups = {name: group for name, group in made.groups.items() if name != key or value is not None}
            elif key in own:
                made.options[key] = names.check_options(self.kind, {key: value}, where=where)[key]
            elif found := next((step for step in made.after if step_name(type(step)) == key), None):
                place = made.after.index(found)
                made.after[place : place + 1] = [] if value is None else [with_options(found, value, at)]
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
        return self.kind.single or any(step.single for step in self.after)

    def _views(self, value: Any, at: str) -> int:
        views: int = fit(value, Positive, at)
        if views != self.views and self._fixed:
            raise UserError(f"{at} is {views}; this task makes its views of {self.views} itself")
        return views

    def _modality(self, key: str, value: Any, where: str, at: str) -> list[Transform]:
        """Returns a modality's steps, changed one by one by a mapping, or all replaced by a list."""
        known = [*self.modalities, *CATALOG, *self.groups, *map(step_name, map(type, self.after)), "views", "fields"]
        known += names.options_of(self.kind)
        if isinstance(value, list):
            return [named_step(key, item, f"{at}[{i}]") for i, item in enumerate(value)]
        if (key not in CATALOG and key not in self.modalities) or not isinstance(value, dict):
            found = f"; found {shortened(value)}" if key in CATALOG else ""
            raise UserError(f"{where or 'view'} has no option {shortened(key)}; {did_you_mean(key, known)}{found}")
        steps = list(self._of(key, key) or [])
        for name, options in value.items():
            place = next((i for i, step in enumerate(steps) if step_name(type(step)) == name), None)
            if place is None and options is not None:
                steps.append(named_step(key, {**fit(options, dict[str, Any], f"{at}.{name}"), "name": name}, at))
            elif place is not None:
                steps[place : place + 1] = (
                    [] if options is None else [with_options(steps[place], options, f"{at}.{name}")]
                )
        return steps


def replace_all(template: Views) -> Views:
    """Returns a copy whose lists can be changed."""
    made = Views(template.views, after=template.after, fields=template.fields, guards=template.guards)
    made.kind, made.groups = template.kind, dict(template.groups)
    made.modalities = {key: list(steps) for key, steps in template.modalities.items()}
    made.options, made.changed_keys = dict(template.options), set(template.changed_keys)
    return made


def with_options(step: Any, options: Any, where: str) -> Any:
    """Returns a step with some options changed."""
    checked = names.check_options(type(step), fit(options, dict[str, Any], where), where=where)
    try:
        return replace(step, **checked)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def named_step(modality: str, item: Any, where: str) -> Transform:
    """Builds a step that a recipe names: {name: crop, scale: [0.2, 1]}, or a class of the user's own code."""
    options = dict(fit(item, dict[str, Any], where)) if not isinstance(item, str) else {"name": item}
    name: str = fit(options.pop("name", None), str, f"{where}.name")
    known = CATALOG.get(modality, {})
    if ":" in name and isinstance(item, dict):
        kind, _ = names.resolve("transforms", name)
    elif name in known:
        kind = known[name]
    else:
        raise UserError(f"{where}: there is no step {shortened(name)} for {modality}; {did_you_mean(name, known)}")
    made: Transform = kind(**names.check_options(kind, options, where=f"{where}.{name}"))
    return made
