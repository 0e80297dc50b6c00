"""A run goes to the hub with a card made from it, and comes back; the hub is a folder here."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

import mmssl
from mmssl import from_pretrained, load_encoder, push_to_hub, save_encoder, train
from mmssl.errors import UserError
from mmssl.exports.card import public


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub."""
    folder = tmp_path / "hub"

    def create_repo(self: Any, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert private and exist_ok
        (folder / repo_id).mkdir(parents=True)

    def upload_folder(self: Any, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, folder / repo_id, dirs_exist_ok=True)
        return f"hub/{repo_id}"

    def snapshot_download(repo_id: str, **options: Any) -> str:
        if not (folder / repo_id).is_dir():
            raise OSError(f"404: {repo_id}")
        assert options["revision"] == "v1" and "*.bin" not in options["allow_patterns"]
        return str(folder / repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return folder


def test_a_run_goes_there_and_back(color_recipe: dict[str, Any], hub: Path, tmp_path: Path) -> None:
    tree = copy.deepcopy(color_recipe)
    tree["train"]["samples"] = 32
    run = train(tree, out=tmp_path / "run", progress=False)
    assert push_to_hub(run, "me/colours", licence="cc-by-4.0") == "hub/me/colours"
    made = hub / "me" / "colours"
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "recipe.yaml", "encoders/image/config.json", "encoders/image/model.safetensors",
        "encoders/text/config.json", "encoders/text/model.safetensors", "encoders/text/tokenizer.json",
    }  # fmt: skip
    for key in ("image", "text"):
        encoder, own = from_pretrained("me/colours", encoder=key, revision="v1"), load_encoder(run / "encoders" / key)
        inputs = torch.rand(2, 3, 16, 16) if key == "image" else ["a red square", "blue"]
        for space in (None, "clip"):
            torch.testing.assert_close(encoder.encode(inputs, space=space), own.encode(inputs, space=space))
    with pytest.raises(UserError, match=r"is a run with the encoders image \(of image\), text \(of text\); say which"):
        from_pretrained("me/colours", revision="v1")
    text = (made / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    tags = ["self-supervised-learning", "clip", "image", "text"]
    assert head == {"license": "cc-by-4.0", "library_name": "mmssl", "tags": tags}
    for part in (
        "encoder = mmssl.from_pretrained('me/colours', encoder='image')",
        "| image | image | `convnet` | 16 |",
        f"| clip | clip | `{Path(tree['tasks']['clip']['data']['shards']).name}` | not said |",
        "  samples: 32\n",
        "| zero_shot/",
        "The weights: cc-by-4.0.",
    ):
        assert part in text, part
    assert str(tmp_path.parent) not in text + (made / "recipe.yaml").read_text(), "no path of this machine"


def test_an_encoder_alone(hub: Path, tmp_path: Path) -> None:
    own = mmssl.create_encoder("convnet", widths=[8], depths=[1], image_size=8).eval()
    save_encoder(own, tmp_path / "encoder")
    push_to_hub(tmp_path / "encoder", "me/one", licence="mit")
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(from_pretrained("me/one", revision="v1").encode(x), own.encode(x))
    torch.testing.assert_close(from_pretrained(tmp_path / "encoder").encode(x), own.encode(x))
    text = (hub / "me" / "one" / "README.md").read_text()
    assert "encoder = mmssl.from_pretrained('me/one')" in text and "## Recipe" not in text and "## Figures" not in text
    with pytest.raises(UserError, match="is one encoder, of image; leave 'text' out"):
        from_pretrained(tmp_path / "encoder", encoder="text")


def test_what_the_hub_does_not_have_or_take(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="me/none is no folder, and the hub does not give it: 404: me/none"):
        from_pretrained("me/none", revision="v1")
    with pytest.raises(UserError, match="is neither a run nor an encoder that mmssl wrote"):
        push_to_hub(tmp_path, "me/none", licence="mit")
    with pytest.raises(UserError, match="say under which licence"):
        push_to_hub(tmp_path, "me/none", licence=" ")

    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise OSError("401: log in")

    save_encoder(mmssl.create_encoder("convnet"), tmp_path / "encoder")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match="the hub does not take me/none: 401: log in"):
        push_to_hub(tmp_path / "encoder", "me/none", licence="mit")


def test_a_public_recipe_tells_nothing_of_the_machine() -> None:
    node = {"shards": ["/home/me/data/emoji-{00..09}.tar", "data/a.tar", "pipe:aws s3 cp --key K s3://b/a.tar -"]}
    node["shards"] += ["https://me:word@host/a.tar?token=T", "~/b.tar"]
    found = ["emoji-{00..09}.tar", "data/a.tar", "pipe:...", "https://host/a.tar", "b.tar"]
    assert public({"data": node, "batch": 3}) == {"data": {"shards": found}, "batch": 3}


def test_a_known_sets_licence_stands_in_the_card(tmp_path: Path) -> None:
    from mmssl.exports.card import card

    recipe = {"tasks": {"moco": {"data": {"shards": "data/cifar10/train-*.tar"}, "method": {"name": "moco:v2"}}}}
    text = card(tmp_path, {"image": mmssl.create_encoder("convnet")}, repo_id="me/x", licence="mit", recipe=recipe)
    licence = yaml.safe_load((Path(mmssl.__file__).parents[1] / "datasets/cifar10/card.yaml").read_text())["licence"]
    assert f"| moco | moco:v2 | `data/cifar10/train-*.tar` | {licence} |" in text
