"""The scripts that made the embedded prior, as far as they go without the drawings."""

import pytest
import torch

from priors.training.autoencoder import standardise
from priors.training.clip import learn_merges, make_tokenizer
from priors.training.data import BACKGROUNDS, NAMES, Pictures, all_captions, backgrounds_for, caption, words
from priors.training.fit import fit, learning_rate
from priors.training.muon import orthogonalise


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    def loss_of(model, stop=None):
        calls = []

        def loss(generator):
            calls.append(1)
            if stop and len(calls) > stop:
                raise KeyboardInterrupt
            return (model(torch.randn(8, 3, generator=generator)) - 1).square().mean()

        return loss

    def model():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    settings = dict(steps=20, lr=0.05, save_seconds=0)
    whole = model()
    average = fit("whole", whole, loss_of(whole), folder=tmp_path, **settings)
    killed = model()
    with pytest.raises(KeyboardInterrupt):
        fit("killed", killed, loss_of(killed, stop=7), folder=tmp_path, **settings)
    resumed = model()
    again = fit("killed", resumed, loss_of(resumed), folder=tmp_path, **settings)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(average.weight, again.weight)
    assert not torch.equal(whole.weight, average.weight)
    assert not list(tmp_path.glob("*.part"))


def test_learning_rate():
    assert learning_rate(0, 1000, 1.0) == pytest.approx(1 / 200, rel=0.01)
    assert learning_rate(500, 1000, 1.0) == pytest.approx(0.505, rel=0.01)
    assert learning_rate(1000, 1000, 1.0) == pytest.approx(0.01)


def test_captions():
    assert words("red-apple") == "a red apple" and words("avocado") == "an avocado" and words("unicorn") == "a unicorn"
    assert words("grapes") == "grapes" and words("cactus") == "a cactus" and words("top-hat") == "a top hat"
    assert caption("red-apple") == "a red apple"
    assert caption("owl", "blue", "flat") == "an owl on a blue background in flat style"
    names = [name for pile in NAMES.values() for name in pile]
    assert len(set(names)) == len(names) >= 200


def test_every_word_is_one_token():
    tokenizer = make_tokenizer()
    for text in all_captions():
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1


def test_merges_are_the_same_every_time():
    """By hand: "lo" is in all three, then "lo" + "w" and "low" + "e" in two; the others are alone, and go by the
    alphabet."""
    assert learn_merges(["low", "lower", "lowest"]) == [
        ("l", "o"),
        ("lo", "w"),
        ("low", "e"),
        ("lo", "w</w>"),
        ("lowe", "r</w>"),
        ("lowe", "s"),
        ("lowes", "t</w>"),
    ]
    assert learn_merges(["aaaa"]) == [("a", "a"), ("a", "a</w>"), ("aa", "aa</w>")]


def test_compositions():
    rgba = torch.zeros(64, 64, 4, dtype=torch.uint8)
    rgba[16:48, 16:48] = torch.tensor([214, 48, 49, 255])
    rgba[0, 0] = torch.tensor([0, 0, 0, 51])  # a fifth of black
    pictures = Pictures(rgba[None, None], [("fire-truck", "noto")], "cpu")
    zero = torch.tensor([0])
    image = pictures.compose(zero, zero, torch.tensor([list(BACKGROUNDS).index("blue")]))[0]
    blue = torch.tensor(BACKGROUNDS["blue"]) / 255
    torch.testing.assert_close(image[:, 32, 32], torch.tensor(BACKGROUNDS["red"]) / 255)
    torch.testing.assert_close(image[:, 63, 63], blue)
    torch.testing.assert_close(image[:, 0, 0], 0.8 * blue)
    allowed = backgrounds_for("fire-truck", rgba)
    assert "red" not in allowed and {"white", "blue", "green"} <= set(allowed)
    assert "yellow" not in backgrounds_for("yellow-heart", rgba)


def test_standardised_latents_decode_to_the_same_pictures():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    rgba = torch.randint(0, 256, (6, 2, 64, 64, 4), dtype=torch.uint8)
    train = Pictures(rgba, [(f"thing{i}", "noto") for i in range(6)], "cpu")
    images = train.draw(torch.arange(6), torch.Generator().manual_seed(0))[0] * 2 - 1
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        picture = vae.decode(before.mean).sample
        vae = standardise(vae, train)
        after = vae.encode(images).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, rtol=1e-3, atol=1e-4)
        ratio = before.std / after.std
        torch.testing.assert_close(ratio, ratio.mean((0, 2, 3), keepdim=True).expand_as(ratio), rtol=1e-3, atol=1e-5)
        many = torch.cat(
            [
                vae.encode(
                    train.draw(torch.randint(6, (64,)), torch.Generator().manual_seed(s))[0] * 2 - 1
                ).latent_dist.mean
                for s in range(8)
            ]
        )
    assert many.mean((0, 2, 3)).abs().max() < 0.05 and (many.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_a_batch_of_matrices_is_made_orthogonal_as_each_alone():
    torch.manual_seed(0)
    for shape in ((3, 6, 20), (2, 20, 6)):
        matrices = torch.randn(shape)
        alone = torch.stack([orthogonalise(matrix) for matrix in matrices])
        torch.testing.assert_close(orthogonalise(matrices), alone, rtol=1e-4, atol=1e-5)
        values = torch.linalg.svdvals(alone)
        assert values.min() > 0.5 and values.max() < 1.3
