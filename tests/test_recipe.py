from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmssl import names, recipe
from mmssl.encoders import create_encoder
from mmssl.errors import UserError


@pytest.mark.parametrize("name", names.list_names("configs"))
def test_every_config_is_checked_and_builds(name: str) -> None:
    made = recipe.load(name)
    encoders = {}
    for key, node in made.encoders.items():
        kind, options = recipe.split(node)
        encoders[key] = create_encoder(kind, **options)
        assert encoders[key].modality == key.partition("_")[0]
    for key, task in made.tasks.items():
        kind, asked = task.objective
        objective = kind(encoders, **asked)
        preprocess = {modality: encoders[modality].preprocess for modality in objective.uses}
        view, options = task.view
        view(preprocess, **options).check()
        sent = pickle.loads(pickle.dumps(view(preprocess, **options)))  # workers that are not forked are sent it
        assert sent.reads and type(sent) is view
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
    ("tasks.clip.method.view.flop", 0.1, "tasks.clip.method.view: Single has no option 'flop'; did you mean 'flip'"),
    ("tasks.clip.method.lens", {}, "tasks.clip.method has no part 'lens'"),
    ("tasks.clip.method.name", "clip:v9", "tasks.clip.method: the method 'clip' has no variant 'v9'"),
    ("tasks.clip.method.view.name", "pear", "there is no view 'pear'; did you mean 'pair'"),
    ("tasks.clip.method.view.name", "pair:wide", "tasks.clip.method.view: the view 'pair' has no variant 'wide'"),
    ("tasks.clip.method.view", {"name": "pair", "flop": 1}, "tasks.clip.method.view: Pair has no option 'flop'"),
    ("tasks.clip.data.shard", "x", "tasks.clip.data has no option 'shard'; did you mean 'shards'"),
    ("tasks.clip.batch", 0, "tasks.clip.batch is 0; expected at least 1"),
    ("optim.lr", "fast", "lr is 'fast'; expected float"),
    ("optim.name", "adamm", "there is no optim 'adamm'"),
    ("train.precision", "fp8", "train: precision is 'fp8'; expected one of 'auto', 'fp32', 'bf16'"),
    ("train.freeze", ["sound"], "train.freeze names 'sound'"),
    ("train.start", {"sound": "runs/x/encoders/sound"}, "train.start names 'sound'"),
    ("evals.zero_shot.clases", [], "evals.zero_shot: ZeroShot has no option 'clases'; did you mean 'classes'"),
    ("evals.retrieval.every", "often", "evals.retrieval.every is 'often'"),
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
    tree = changed(color_recipe, "tasks.clip.method.view", {"name": "pair", "flip": 0.25})
    view, options = recipe.check(tree).tasks["clip"].view
    assert (view.__name__, options) == ("Pair", {"flip": 0.25})
    own, options = recipe.check(color_recipe).tasks["clip"].view
    assert (own.__name__, options) == ("Single", {})
