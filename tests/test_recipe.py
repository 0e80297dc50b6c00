from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmssl import names, recipe
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.log import WandbOptions
from mmssl.optim.groups import GroupOptions
from mmssl.views import simclr, single


@pytest.mark.parametrize("name", names.list_names("configs"))
def test_every_config_is_checked_and_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for init in ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, init, lambda tensor, *_args, **_options: tensor)  # which takes the time
    made = recipe.load(name)
    encoders = {}
    for key, node in made.encoders.items():
        kind, options = recipe.split(recipe.split_encoder(node, where=key)[1])
        if kind.startswith("transformers:"):  # of the hub or a wheel, which no test asks
            kind, options = "transformer", {}
        encoders[key] = create_encoder(kind, **options)
        assert encoders[key].modality == key.partition("_")[0]
    for key, task in made.tasks.items():
        kind, asked = task.objective
        objective = kind(encoders, **asked)
        preprocess = {modality: encoders[modality].preprocess for modality in objective.uses}
        view, options = task.view
        view(preprocess, **options).check()
        sent = pickle.loads(pickle.dumps(view(preprocess, **options)))  # workers that are not forked are sent it
        assert sent.reads and type(sent) is type(view(preprocess, **options))
        assert task.batch > 0, key


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    tree = yaml.safe_load(yaml.safe_dump(tree))
    recipe.override(tree, f"{path}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}")
    return tree


WRONG = [
    ("encoder", {}, "a recipe has no node 'encoder'; did you mean 'encoders'"),
    ("encoders.image.widhts", [8], "encoders.image: ConvNet has no option 'widhts'; did you mean 'widths'"),
    ("encoders.image.name", "convnett", "there is no encoder 'convnett'; did you mean 'convnet'"),
    ("tasks.clip.method.objective.temprature", 0.1, "tasks.clip.method.objective: CLIP has no option 'temprature'"),
    ("tasks.clip.method.view.flop", 0.1, "tasks.clip.method.view has no option 'flop'"),
    ("encoders.image.field", 3, "encoders.image: field is 3; expected str | None"),
    ("tasks.clip.method.lens", {}, "tasks.clip.method has no part 'lens'"),
    ("tasks.clip.method.name", "clip:v9", "tasks.clip.method: the method 'clip' has no variant 'v9'"),
    (
        "tasks.clip.method.view.image.flop",
        {},
        "tasks.clip.method.view.image: there is no step 'flop' for image; did you mean 'flip'",
    ),
    (
        "tasks.clip.method.view.image.crop.scael",
        1,
        "tasks.clip.method.view.image.crop: Crop has no option 'scael'; did you mean 'scale'",
    ),
    ("tasks.clip.method.view.name", "simlcr", "there is no view 'simlcr'; did you mean 'simclr'"),
    ("tasks.clip.method.view.name", "simclr:wide", "tasks.clip.method.view: the view 'simclr' has no variant 'wide'"),
    ("tasks.clip.method.view", {"name": "simclr", "flop": 1}, "tasks.clip.method.view has no option 'flop'"),
    ("tasks.clip.data.shard", "x", "tasks.clip.data has no option 'shard'; did you mean 'shards'"),
    ("tasks.clip.batch", 0, "tasks.clip: batch is 0; expected int of at least 1"),
    ("optim.lr", "fast", "lr is 'fast'; expected float"),
    ("optim.name", "adamm", "there is no optim 'adamm'"),
    ("train.precision", "fp8", "train: precision is 'fp8'; expected one of 'auto', 'fp32', 'bf16'"),
    ("train.freeze", ["sound"], "train.freeze names 'sound'"),
    ("train.start", {"sound": "runs/x/encoders/sound"}, "train.start names 'sound'"),
    ("evals.zero_shot.clases", [], "evals.zero_shot: ZeroShot has no option 'clases'; did you mean 'classes'"),
    ("evals.retrieval.every", "often", "evals.retrieval: every is 'often'"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_every_node_is_checked(color_recipe: dict[str, Any], path: str, value: Any, message: str) -> None:
    recipe.check(color_recipe)
    with pytest.raises(UserError) as caught:
        recipe.check(changed(color_recipe, path, value))
    assert message in str(caught.value)


def test_overrides_reach_any_depth_and_what_is_saved_is_resolved(tmp_path: Path, color_recipe: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(color_recipe))
    made = recipe.load(file, ["optim.lr=3e-4", "tasks.clip.method.objective.hidden=[32]", "train.clip_grad=1"])
    again = yaml.safe_load(made.dump())
    assert again["optim"]["lr"] == "3e-4" or again["optim"]["lr"] == 3e-4
    assert again["tasks"]["clip"]["method"]["objective"]["hidden"] == [32]
    assert made.train.clip_grad == 1.0
    assert recipe.check(again).train == made.train


def test_a_file_that_is_no_recipe_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no recipe 'clip_emoij'.*nearest is 'cross_modal/clip_emoji'"):
        recipe.load("clip_emoij")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is not YAML"):
        recipe.load(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds no recipe"):
        recipe.load(tmp_path / "list.yaml")
    with pytest.raises(UserError, match="write it as key.key=value"):
        recipe.load("cross_modal/clip_emoji", ["optim.lr"])


def test_a_recipe_may_choose_another_view(color_recipe: dict[str, Any]) -> None:
    tree = changed(color_recipe, "tasks.clip.method.view", {"name": "simclr", "image": {"flip": {"p": 0.25}}})
    view, options = recipe.check(tree).tasks["clip"].view
    assert (view, options) == (simclr.view, {"image": {"flip": {"p": 0.25}}})
    own, options = recipe.check(color_recipe).tasks["clip"].view
    assert (own, options) == (single.view, {})


TINY = {
    "encoders": {"image": {"name": "convnet"}},
    "tasks": {"simclr": {"data": {"shards": "x.tar"}, "method": {}, "batch": 4}},
    "train": {"samples": 10},
}


def test_what_a_run_does_by_default() -> None:
    made = recipe.check(yaml.safe_load(yaml.safe_dump(TINY)))
    assert dataclasses.asdict(made.train) == {
        "samples": 10,
        "warmup": 0,
        "seed": 0,
        "precision": "auto",
        "accumulate": 1,
        "clip_grad": 0.0,
        "ema": 0.0,
        "final_lr": 0.0,
        "compile": False,
        "checkpointing": False,
        "device": None,
        "threads": None,
        "deterministic": False,
        "freeze": [],
        "start": {},
        "log_every": 10,
        "save_every": None,
        "keep": 2,
        "max_bad_steps": 10,
        "timeout": 1800.0,
        "wandb": False,
    }
    assert (made.name, made.optim, made.evals) == ("run", {"name": "adamw"}, {})
    task = made.tasks["simclr"]
    assert (task.weight, task.method, task.objective[1], task.view[1]) == (1.0, {"name": "simclr"}, {}, {})
    assert task.objective[0].__name__ == "SimCLR"
    assert made.plain == TINY and yaml.safe_load(made.dump()) == TINY
    written = {key: TINY[key] for key in ("train", "tasks", "encoders")}
    assert list(yaml.safe_load(recipe.check(written).dump())) == list(written), "in the order that it was written"


def test_options_of_parts_and_when_they_train() -> None:
    groups = {"image": {"lr": "1e-5", "layer_decay": 0.75}, "heads.simclr": {"warmup": 3, "final_lr": 1}}
    made = recipe.check({**TINY, "optim": {"name": "sgd", "lr": 1, "groups": groups}})
    assert made.optim == {"name": "sgd", "lr": 1} and made.plain["optim"]["groups"] == groups
    assert made.groups == {
        "image": GroupOptions(lr=1e-5, layer_decay=0.75),
        "heads.simclr": GroupOptions(warmup=3, final_lr=1.0),
    }
    for freeze, frozen in ((["image"], {"image": 1.0}), ({"image.blocks.0": 0.5}, {"image.blocks.0": 0.5}), ([], {})):
        assert recipe.check({**TINY, "train": {"samples": 1, "freeze": freeze}}).train.frozen == frozen
    alone = recipe.check({**TINY, "encoders": {"heads": {"name": "convnet", "modality": "image"}}, "optim": {"lr": 1}})
    assert alone.groups == {}
    emptied = recipe.check({**TINY, "optim": {"name": "sgd", "lr": 1, "groups": {}}})  # as optim.groups={} does
    assert (emptied.optim, emptied.groups) == ({"name": "sgd", "lr": 1}, {})
    with pytest.raises(
        UserError, match=r"^optim\.groups\.heads are the objectives' weights; give the encoder 'heads' "
    ):
        recipe.check({**alone.plain, "optim": {"groups": {"heads": {"lr": 1}}}})


@pytest.mark.parametrize(
    ("said", "steps"),
    [(7, 7), ("7 steps", 7), ("12 samples", 3), ("15 samples", 3), ("3 samples", 1), ("1_000 samples", 250)],
)
def test_lines_of_the_log_come_after_steps_or_samples(said: int | str, steps: int) -> None:
    assert recipe.check({**TINY, "train": {"samples": 10, "log_every": said}}).log_steps == steps


def test_where_figures_are_sent_to() -> None:
    for said, options in ((True, True), ({"project": "p", "tags": ["a"]}, WandbOptions(project="p", tags=["a"]))):
        assert recipe.check({**TINY, "train": {"samples": 10, "wandb": said}}).train.wandb == options


def test_a_step_has_the_samples_of_all_tasks() -> None:
    tree = yaml.safe_load(yaml.safe_dump(TINY))
    tree["tasks"]["more"] = {**tree["tasks"]["simclr"], "batch": 7, "weight": 2, "method": {"name": "simclr"}}
    made = recipe.check(tree)
    assert made.per_step == 11 and made.tasks["more"].weight == 2.0


def test_an_evaluation_is_named_by_its_key_or_its_name() -> None:
    options = {"train": {"shards": "x"}, "data": {"shards": "y"}}
    made = recipe.check({**TINY, "evals": {"knn": options, "again": {"name": "knn", "every": 1, **options}}})
    assert made.evals == {"knn": {"name": "knn", **options}, "again": {"name": "knn", "every": 1, **options}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("evals.knn.every", 0, "evals.knn: every is 0; expected int of at least 1 | None"),
        ("evals.knn.every", True, "evals.knn: every is True; expected int of at least 1 | None"),
        ("evals.knn.every", 2.5, "evals.knn: every is 2.5; expected int of at least 1 | None"),
        ("evals.knn", 3, "evals.knn is 3; expected a mapping"),
        ("evals.nosuch", {}, "there is no eval 'nosuch'"),
        ("encoders", {}, "encoders is {}; expected a mapping of names to nodes, at least one"),
        ("encoders", [1], "encoders is [1]; expected a mapping"),
        ("encoders.image", 1, "expected a mapping of names to nodes"),
        ("encoders.text", 1, "expected a mapping of names to nodes"),
        ("encoders.image", {"widths": [4]}, "encoders.image is {'widths': [4]}; expected a mapping with a `name`"),
        ("tasks", None, "tasks is None; expected a mapping"),
        ("optim", "adamw", "optim is 'adamw'; expected a mapping with a `name`"),
        ("optim.momentum", 0.9, "optim: optimizer has no option 'momentum'"),
        ("tasks.simclr.batch", -1, "tasks.simclr: batch is -1; expected int of at least 1"),
        ("tasks.simclr.data.batch", 4, "tasks.simclr.data has no option 'batch'"),
        ("tasks.simclr.data.seed", 4, "tasks.simclr.data has no option 'seed'"),
        ("tasks.simclr.data.rank", 4, "tasks.simclr.data has no option 'rank'"),
        ("tasks.simclr.data.world", 4, "tasks.simclr.data has no option 'world'"),
        ("tasks.simclr.data.workers", "many", "tasks.simclr.data: workers is 'many'; expected int"),
        ("tasks.simclr.data", {}, "tasks.simclr.data: Source needs the option 'shards'"),
        ("tasks.simclr.weight", True, "tasks.simclr: weight is True; expected float"),
        ("train", {}, "train: TrainOptions needs the option 'samples'"),
        ("train.ema", True, "train: ema is True; expected float"),
        ("train.smaples", 3, "train: TrainOptions has no option 'smaples'; did you mean 'samples'"),
        ("train.freeze", ["text"], "train.freeze names 'text'; known: image"),
        (
            "train.freeze",
            {"image.stem": 1.5},
            "train: freeze is {'image.stem': 1.5}; expected list[str] | dict[str, float",
        ),
        ("train.freeze", {"imag.stem": 0.5}, "train.freeze names 'imag'; did you mean 'image'?"),
        ("train.checkpointing", ["imag"], "train.checkpointing names 'imag'; did you mean 'image'?"),
        ("train.checkpointing", 3, "train: checkpointing is 3; expected bool | list[str]"),
        ("optim.groups", ["image"], "optim.groups is ['image']; expected dict[str, Any]"),
        ("optim.groups", {"txet": {}}, "optim.groups names 'txet'; known: heads, image"),
        ("optim.groups", {"head": {}}, "optim.groups names 'head'; did you mean 'heads'?"),
        (
            "optim.groups",
            {"image": {"lrr": 1}},
            "optim.groups.image: GroupOptions has no option 'lrr'; did you mean 'lr'?",
        ),
        ("optim.groups", {"image": {"lr": -1}}, "optim.groups.image: lr is -1; expected float of at least 0 | None"),
        (
            "optim.groups",
            {"image": {"layer_decay": 0}},
            "layer_decay is 0; expected float above 0 and of at most 1 | None",
        ),
        ("optim.groups", {"image": 1e-3}, "optim.groups.image is 0.001; expected a mapping of options"),
        ("name", ["x"], "name is ['x']; expected that of a folder in runs"),
        ("name", None, "name is None; expected that of a folder in runs"),
        ("name", "../x", "name is '../x'; expected that of a folder in runs"),
        ("name", "/x", "name is '/x'; expected that of a folder in runs"),
        ("name", "a\tb", "name is 'a\\tb'; expected that of a folder in runs"),
        ("encoders", {3: {"name": "convnet"}}, "a name of encoders is 3; expected str that names a file"),
        ("tasks", {"../x": TINY["tasks"]["simclr"]}, "a name of tasks is '../x'; expected str that names a file"),
        ("encoders.image.name", ["convnet"], "name is ['convnet']; expected str"),
        ("encoders.image.name", None, "name is None; expected str"),
        ("tasks.simclr.method", ["simclr"], "tasks.simclr: method is ['simclr']; expected dict"),
        ("tasks.simclr.method", {1: 2}, "tasks.simclr: method is {1: 2}; expected dict"),
        ("tasks.simclr.method.objective", [1], "tasks.simclr.method.objective is [1]; expected a mapping of options"),
        ("tasks.simclr.method.objective", {1: 2}, "tasks.simclr.method.objective: SimCLR has no option 1"),
        ("tasks.simclr.method.view", "pair", "tasks.simclr.method.view is 'pair'; expected dict"),
        ("tasks.simclr.data", {1: 2}, "tasks.simclr: data is {1: 2}; expected dict"),
        ("tasks.simclr.weight", math.nan, "tasks.simclr: weight is nan; expected float of at least 0"),
        ("tasks.simclr.weight", math.inf, "tasks.simclr: weight is inf; expected float of at least 0 and below inf"),
        ("tasks.simclr.data.workers", -1, "tasks.simclr.data: workers is -1; expected int of at least 0"),
        ("tasks.simclr.data.workers", 10**9, "expected int of at least 0 and of at most 1024"),
        ("tasks.simclr.data.epoch_samples", 0, "tasks.simclr.data: epoch_samples is 0; expected "),
        ("tasks.simclr.data.max_damaged", math.nan, "tasks.simclr.data: max_damaged is nan; expected float"),
        ("evals", [1], "evals is [1]; expected dict"),
        ("evals", {3: {}}, "evals is {3: {}}; expected dict"),
        ("train", [1], "train is [1]; expected a mapping of options"),
        ("train.samples", 0, "train: samples is 0; expected int of at least 1"),
        ("train.seed", -1, "train: seed is -1; expected int of at least 0"),
        ("train.seed", 2**64, "train: seed is 18446744073709551616; expected int of at least 0"),
        ("train.warmup", -1, "train: warmup is -1; expected int of at least 0"),
        ("train.accumulate", 0, "train: accumulate is 0; expected int of at least 1"),
        ("train.clip_grad", math.nan, "train: clip_grad is nan; expected float of at least 0"),
        ("train.ema", 1, "train: ema is 1; expected float of at least 0 and below 1"),
        ("train.final_lr", -0.1, "train: final_lr is -0.1; expected float of at least 0 and of at most 1"),
        ("train.threads", 0, "train: threads is 0; expected "),
        (
            "train.log_every",
            0,
            "train: log_every is 0; expected int of at least 1 | str that is a number of samples or",
        ),
        ("train.log_every", "0 samples", "train: log_every is '0 samples'; expected int"),
        ("train.log_every", "5 epochs", "train: log_every is '5 epochs'; expected int"),
        ("train.wandb", {"grup": "x"}, "train: wandb has no option 'grup'; did you mean 'group'?"),
        ("train.wandb", {"tags": "x"}, "train: wandb: tags is 'x'; expected list[str]"),
        ("train.wandb", "mine", "train: wandb is 'mine'; expected bool | a mapping of project, name, group, tags"),
        ("train.save_every", 0, "train: save_every is 0; expected "),
        ("train.keep", 0, "train: keep is 0; expected int of at least 1"),
        ("train.max_bad_steps", -1, "train: max_bad_steps is -1; expected int of at least 0"),
        ("train.start", {"image": 3}, "train: start is {'image': 3}; expected str | dict[str, str]"),
        ("train.start", ["image"], "train: start is ['image']; expected str | dict[str, str]"),
    ],
)
def test_what_is_refused(path: str, value: Any, message: str) -> None:
    evals = {"knn": {"train": {"shards": "x"}, "data": {"shards": "y"}}}
    recipe.check(changed({**TINY, "optim": {}, "evals": evals}, "train.samples", 20))
    with pytest.raises(UserError) as caught:
        recipe.check(changed({**TINY, "optim": {}, "evals": evals}, path, value))
    assert message in str(caught.value)


def test_data_is_split_between_source_and_loader() -> None:
    node = {"shards": "x", "fields": {"text": "json.caption"}, "workers": 3.0, "shuffle_mb": 1, "strict": True}
    source, loader = recipe.split_data(node, where="here")
    assert source == {"shards": "x", "fields": {"text": "json.caption"}}
    assert loader == {"workers": 3, "shuffle_mb": 1.0, "strict": True}
    assert type(loader["workers"]) is int and type(loader["shuffle_mb"]) is float


def test_a_list_of_sources_is_short_for_sources() -> None:
    nodes = [{"shards": "x", "weight": "7e-1"}, {"shards": ["y", "z"], "weight": 1, "fields": {"text": "json.a"}}]
    source, loader = recipe.split_data({"sources": nodes, "workers": 3}, where="here")
    assert source == {"sources": [{"shards": "x", "weight": 0.7}, nodes[1]]}
    assert loader == {"workers": 3}
    assert recipe.split_data(nodes, where="here") == (source, {})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ([{"shards": "x", "weight": 0}], "here.0: weight is 0; expected float above 0"),
        ([{"shards": "x"}, {"weight": 1}], "here.1: MixedSource needs the option 'shards'"),
        ([{"shards": "x", "workers": 1}], "here.0: MixedSource has no option 'workers'"),
        ({"sources": [], "shards": "x"}, "here has no option 'shards'; known: epoch_samples"),
        ({"sources": "x"}, "here.sources is 'x'; expected list"),
    ],
)
def test_sources_that_are_refused(node: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.split_data(node, where="here")
    assert str(caught.value).startswith(message)


def test_shards_in_a_list_of_sources_need_trust_as_others_do() -> None:
    task = {"data": [{"shards": "x"}, {"shards": "pipe:rm y"}], "batch": 4, "method": {"name": "simclr"}}
    tree = {**TINY, "tasks": {"simclr": task}}
    recipe.check(copy.deepcopy(tree))
    with pytest.raises(UserError, match="'pipe:rm y' may be a command"):
        recipe.check(tree, trust_code=False)


def test_an_override_reaches_into_a_list() -> None:
    tree = {"data": [{"weight": 1}, {"weight": 2}]}
    recipe.override(tree, "data.1.weight=5")
    assert tree == {"data": [{"weight": 1}, {"weight": 5}]}
    for change in ("data.2.weight=5", "data.x=5", "data.-1=5"):
        with pytest.raises(UserError, match="an item of a list; expected a number from 0 to 1"):
            recipe.override(tree, change)


def test_splitting_a_node() -> None:
    assert recipe.split({"name": "a", "b": 1}) == ("a", {"b": 1})
    assert recipe.split({"b": 1}, default="c") == ("c", {"b": 1})


@pytest.mark.parametrize(
    "tree",
    [
        {"encoders": {"image": {"name": "their.code:encoder"}}},
        {"tasks": {"simclr": {"data": {"shards": "x"}, "batch": 4, "method": {"name": "their.code"}}}},
        {"encoders": {"video": {"name": "frames", "image": {"name": "their.code:encoder"}}}},
    ],
)
def test_what_is_not_ones_own_names_no_foreign_code(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'their.code.*' names code outside mmssl"):
        recipe.check({**TINY, **tree}, trust_code=False)
    with pytest.raises(UserError, match="there is no module 'their'") if "video" not in str(tree) else nullcontext():
        recipe.check({**TINY, **tree})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**TINY, **tree}))
    with pytest.raises(UserError, match="names code outside mmssl"):
        recipe.load(tmp_path / "r.yaml", trust_code=False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("a=1", {"a": 1, "b": {"c": 2}}),
        ("b.c=[x, 1.5]", {"b": {"c": ["x", 1.5]}}),
        ("b.d.e=true", {"b": {"c": 2, "d": {"e": True}}}),
        ("b.c=p=q", {"b": {"c": "p=q"}}),
        ("a=", {"a": None, "b": {"c": 2}}),
    ],
)
def test_an_override_sets_one_value(change: str, expected: dict[str, Any]) -> None:
    tree = {"b": {"c": 2}}
    recipe.override(tree, change)
    assert tree == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("b.c", "'b.c' is no override; write it as key.key=value"),
        ("b.c.d=1", "'b.c.d=1': 'c' is the value 2, it has no 'd' below it"),
        ("b=[1", "'b=[1': the value is not YAML"),
    ],
)
def test_an_override_that_is_none(change: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.override({"b": {"c": 2}}, change)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("given", ["cross_modal/clip_emoji", "configs/cross_modal/clip_emoji.yaml"])
def test_a_shipped_recipe_is_found_by_name(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.find(given) == names.home("configs") / "cross_modal" / "clip_emoji.yaml"
    with pytest.raises(UserError, match=r"none comes near \(see `mmssl list configs`\)"):
        recipe.find("qqqqqq")
    (tmp_path / "mine.v1").write_text(yaml.safe_dump(TINY))
    assert recipe.find("mine.v1") == Path("mine.v1")
    assert recipe.load("mine.v1").name == "mine"
    (tmp_path / "named").write_text(yaml.safe_dump({**TINY, "name": "other"}))
    assert recipe.load("named").name == "other"
