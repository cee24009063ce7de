"""The judge: background colours, the prompts it asks for, and what a rank is."""

import json

import pytest
import torch

from priors.files import EMBEDDED
from recording.scores import Judge, background_colours, draw_prompts, report, with_background

CAPTIONS = {
    "names": {"Food": ["a red apple", "a lemon", "bread"], "Symbols": ["a blue heart", "a red heart"]},
    "backgrounds": {"white": [255, 255, 255], "red": [214, 48, 49], "blue": [45, 100, 220]},
}


def test_background_is_read_off_the_rim():
    images = torch.zeros(3, 3, 64, 64)
    for image, colour in zip(images, ("red", "blue", "white"), strict=True):
        image[:] = torch.tensor(CAPTIONS["backgrounds"][colour]).view(3, 1, 1) / 255
    images[:, :, 8:56, 8:56] = 0.5  # the thing itself does not count
    images[1, :, :, :20] += 0.05  # nor a little unevenness
    assert background_colours(images, CAPTIONS) == ["red", "blue", "white"]


def test_prompts_cover_the_categories_and_never_hide_the_thing():
    prompts = draw_prompts(CAPTIONS, 40, seed=3)
    assert prompts == draw_prompts(CAPTIONS, 40, seed=3) != draw_prompts(CAPTIONS, 40, seed=4)
    assert {phrase for phrase, _ in prompts[:5]} == {name for names in CAPTIONS["names"].values() for name in names}
    assert all(background not in phrase.split() for phrase, background in prompts)
    assert {background for _, background in prompts} == {"white", "red", "blue"}
    assert with_background("a lemon", "white") == "a lemon"
    assert with_background("a lemon", "red") == "a lemon on a red background"


def test_rank_counts_the_names_that_are_better():
    judge = Judge(EMBEDDED / "clip")  # whose features are written by hand
    names = [name for pile in CAPTIONS["names"].values() for name in pile]
    axes = torch.eye(5)
    judge.text_features = lambda prompts: torch.stack([axes[names.index(p.split(" on a")[0])] for p in prompts])
    judge.image_features = lambda images: torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.2]]).expand(len(images), 5)
    wanted = [("a red apple", "white"), ("a lemon", "red"), ("bread", "blue")]
    ranks = judge.ranks(torch.zeros(3, 3, 8, 8), wanted, CAPTIONS)
    assert ranks == [0, 4, 1]
    line = report(ranks, ["white", "red", "red"], wanted)
    assert "top-1 33.3%" in line and "top-5 100.0%" in line and "background 66.7%" in line


def test_a_clip_without_its_vision_tower_is_refused(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(EMBEDDED / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if not name.startswith("vision_model")}
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match="vision_model"):
        Judge(tmp_path / "clip")


def test_a_clip_whose_tokenizer_has_no_length(tmp_path):
    import shutil

    shutil.copytree(EMBEDDED / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("model_max_length", None)
    file.write_text(json.dumps(config))
    whole, judge = Judge(EMBEDDED / "clip"), Judge(tmp_path / "clip")
    torch.testing.assert_close(judge.text_features(["a red apple"]), whole.text_features(["a red apple"]))
