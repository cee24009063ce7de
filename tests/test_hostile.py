"""Input that anybody may have written: checkpoints, pictures, prompts, configurations."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

import sds2d
from config import load
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from recording.scores import EvalConfig, evaluator
from representations.start import open_image

# ------------------------------------------------------------------------------------------------------------
# checkpoints


class Payload:
    """A pickle that makes a file when it is opened."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "prior")


def refused(folder, match):
    with pytest.raises(InputError, match=match) as error:
        Checkpoint(PriorConfig(path=str(folder)))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "part, name",
    [
        ("unet", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.bin"),
        ("text_encoder", "pytorch_model.bin"),
        ("unet", "model.ckpt"),
    ],
)
def test_pickles_are_never_opened(copy, tmp_path, part, name):
    (copy / part / name).write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    Checkpoint(PriorConfig(path=str(copy)))  # which has safetensors beside it
    for file in (copy / part).glob("*.safetensors"):
        file.unlink()
    refused(copy, f"its {part} needs weights as safetensors, and has only {name}")
    assert not (tmp_path / "opened").exists()


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


CODE = {
    "a part by a module of its own": lambda folder: edit(folder / "model_index.json", unet=["my_unet", "MyUNet"]),
    "a known class of a module of its own": lambda folder: edit(
        folder / "model_index.json", unet=["my_unet", "UNet2DConditionModel"]
    ),
    "a part by another library": lambda folder: edit(folder / "model_index.json", vae=["subprocess", "Popen"]),
    "a part that is no pair": lambda folder: edit(folder / "model_index.json", vae="AutoencoderKL"),
    "code for transformers": lambda folder: edit(
        folder / "text_encoder" / "config.json", auto_map={"AutoModel": "mine.Model"}
    ),
    "weights that lie elsewhere": lambda folder: (folder / "text_encoder" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "owner/name", "peft_type": "LORA"}'
    ),
    "code for the tokenizer": lambda folder: edit(
        folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": "mine.T"}
    ),
}


@pytest.mark.parametrize(
    "names", [{"a": "weights.bin"}, {"a": "weights.safetensors"}, {"a": "../../x-1-of-2.safetensors"}, {"a": 3}, 7]
)
def test_shards_under_other_names_are_refused(copy, names):
    """Which would not be hashed, and might be pickles."""
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    refused(copy, "its unet: .*index.json names .* is needed")


def test_shards_are_read(copy, tiny):
    Checkpoint(PriorConfig(path=str(copy))).denoiser.save_pretrained(copy / "unet", max_shard_size="100KB")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    one, many = (Checkpoint(PriorConfig(path=str(folder))) for folder in (tiny, copy))
    assert len(list((copy / "unet").glob("*-of-*.safetensors"))) > 1 and one.sha256 != many.sha256
    for name, value in one.denoiser.state_dict().items():
        assert (many.denoiser.state_dict()[name] == value).all()


@pytest.mark.parametrize("what", CODE)
def test_code_is_never_run(copy, what):
    CODE[what](copy)
    refused(copy, "its (unet|vae|text_encoder|tokenizer) (needs code|is a|has an adapter_config)")


def test_a_checkpoint_from_the_hub(tiny, tmp_path):
    """As the hub's own library keeps one: a revision's folder in its cache. What is not needed is not asked for."""
    home = tmp_path / "hub" / "models--owner--name"
    shutil.copytree(tiny, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    words = [
        sys.executable,
        ROOT / "sds2d.py",
        "--prior.path",
        "owner/name",
        "--steps",
        "1",
        "--particles",
        "1",
        "--out",
        tmp_path / "run",
    ]
    done = subprocess.run(
        words,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["prior"]["path"] == "owner/name"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["prior_sha256"] == Checkpoint(PriorConfig(path=str(tiny))).sha256


def test_a_clip_of_pickles_is_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "clip" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    with pytest.raises(InputError, match="could not be loaded as a CLIP"):
        evaluator(EvalConfig(clip=str(tmp_path / "clip")), "none", None)
    assert not (tmp_path / "opened").exists()


# ---------------------------------------------------------------------------------------------------------------
# pictures

RED, BLUE = (200, 30, 30), (20, 40, 220)


@pytest.fixture
def halves():
    """Red above blue."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20], pixels[20:] = RED, BLUE
    return Image.fromarray(pixels)


def close(file, above, below, by=3):
    picture = open_image(file)
    assert picture.mode == "RGB" and picture.size == (60, 40)
    for at, expected in (((5, 5), above), ((55, 35), below)):
        assert max(abs(a - b) for a, b in zip(picture.getpixel(at), expected, strict=True)) <= by, (
            at,
            picture.getpixel(at),
        )


@pytest.mark.parametrize(
    "mode, name",
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("CMYK", "tif"),
        ("CMYK", "jpg"),
        ("YCbCr", "tif"),
        ("LAB", "tif"),
    ],
)
def test_pictures_of_colour(halves, tmp_path, mode, name):
    picture = halves.quantize(4) if mode == "P" else halves.convert(mode)
    picture.save(tmp_path / f"x.{name}", **({"quality": 100} if name in ("jpg", "webp") else {}))
    close(tmp_path / f"x.{name}", RED, BLUE, by=8)


@pytest.mark.parametrize(
    "kind, name", [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif"), (np.uint8, "png")]
)
def test_greys_of_any_depth(tmp_path, kind, name):
    largest = {np.uint8: 255, np.float32: 1}.get(kind, 65535)
    values = np.full((40, 60), 0.2)
    values[20:] = 0.8
    Image.fromarray((values * largest).astype(kind)).save(tmp_path / f"x.{name}")
    close(tmp_path / f"x.{name}", (51,) * 3, (204,) * 3, by=1)


@pytest.mark.parametrize("values", [np.nan, np.inf, -0.1, 200.0])
def test_greys_that_are_none_are_refused(tmp_path, values):
    Image.fromarray(np.full((4, 4), values, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match="x.tif .*not all from 0 to 1"):
        open_image(tmp_path / "x.tif")


def test_what_is_transparent_lies_over_white(halves, tmp_path):
    clear = halves.convert("RGBA")
    clear.putalpha(Image.new("L", halves.size, 0))
    clear.save(tmp_path / "clear.png")
    close(tmp_path / "clear.png", (255,) * 3, (255,) * 3)
    clear.putalpha(Image.new("L", halves.size, 51))
    clear.save(tmp_path / "fifth.png")
    close(tmp_path / "fifth.png", *(tuple(round(0.2 * c + 0.8 * 255) for c in colour) for colour in (RED, BLUE)))
    palette = halves.quantize(2)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((5, 5)))
    close(tmp_path / "palette.png", (255,) * 3, BLUE)
    halves.save(tmp_path / "key.png", transparency=RED)
    close(tmp_path / "key.png", (255,) * 3, BLUE)
    halves.convert("LA").save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").size == (60, 40)


def test_the_first_frame_of_an_animation(halves, tmp_path):
    for name in ("x.gif", "x.webp", "x.png"):
        halves.save(
            tmp_path / name,
            save_all=True,
            append_images=[Image.new("RGB", halves.size, "green")],
            **({"lossless": True} if "webp" in name else {}),
        )
        close(tmp_path / name, RED, BLUE)


@pytest.mark.parametrize(
    "orientation, turn",
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (5, Image.Transpose.TRANSPOSE),
    ],
)
def test_pictures_stand_as_their_exif_says(halves, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves.transpose(turn).save(tmp_path / "x.jpg", exif=exif, quality=100)
    close(tmp_path / "x.jpg", RED, BLUE, by=5)


def test_profiles_are_followed(tmp_path):
    """A profile whose red and blue have changed places."""
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = lab.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "x.png", icc_profile=swapped)
    close(tmp_path / "x.png", (0, 0, 255), (0, 0, 255), by=3)
    Image.new("RGB", (60, 40), (255, 0, 0)).convert("P").save(tmp_path / "p.png", icc_profile=swapped)
    close(tmp_path / "p.png", (0, 0, 255), (0, 0, 255), by=3)
    Image.new("RGBA", (60, 40), (255, 0, 0, 128)).save(tmp_path / "a.png", icc_profile=swapped)
    close(tmp_path / "a.png", (127, 127, 255), (127, 127, 255), by=3)  # half of it over white
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "y.png", icc_profile=b"none")
    close(tmp_path / "y.png", (255, 0, 0), (255, 0, 0))


def grey_profile():
    """ICC 2.4, greys in proportion to light: a header of 128 bytes, the number of tags, where each is, and they."""

    def text(words):
        return b"text\0\0\0\0" + words + b"\0"

    white = b"XYZ \0\0\0\0" + b"".join(round(value * 65536).to_bytes(4, "big") for value in (0.9642, 1, 0.8249))
    name = b"desc\0\0\0\0" + (5).to_bytes(4, "big") + b"grey\0" + bytes(78)
    tags = {b"desc": name, b"cprt": text(b"none"), b"wtpt": white, b"kTRC": b"curv" + bytes(8)}  # no points: linear
    place, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        value += bytes(-len(value) % 4)
        table += tag + (place + len(data)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        data += value
    header = b"none" + bytes([2, 0x40, 0, 0]) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:20]
    body = header + bytes(124 - len(header)) + len(tags).to_bytes(4, "big") + table + data
    return (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize("mode, color, seen", [("L", 55, 128), ("LA", (55, 255), 128), ("LA", (55, 0), 255)])
def test_profiles_of_greys(tmp_path, mode, color, seen):
    """55/255 of white's light is half of sRGB's scale (IEC 61966-2-1: ((0.5 + 0.055)/1.055)^2.4 = 0.214)."""
    Image.new(mode, (60, 40), color).save(tmp_path / "x.png", icc_profile=grey_profile())
    close(tmp_path / "x.png", (seen,) * 3, (seen,) * 3, by=2)


def test_no_program_is_started_for_a_picture(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "x.eps")
    with pytest.raises(InputError, match="x.eps cannot be read"):
        open_image(tmp_path / "x.eps")


def test_a_picture_too_large_for_memory(tmp_path, halves):
    """A few bytes that promise 10^10 pixels."""
    import zlib

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = (100_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    header = (10_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])  # within what Pillow would only warn of
    (tmp_path / "large.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    for name in ("bomb.png", "large.png"):
        with pytest.raises(InputError, match=f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels"):
            open_image(tmp_path / name)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="pipe.png: no file"):
        open_image(tmp_path / "pipe.png")


# ----------------------------------------------------------------------------------------------------------------
# prompts

PROMPTS = [
    "",
    " ",
    "word " * 5000,
    "🍎🦊👩‍👩‍👧",
    "狐 と 林檎",
    "تفاحة حمراء",
    "a\nb\r\nc\td",
    "</script><img src=x onerror=alert(1)>",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\con\\nul",
    "$(touch x) `touch x` ; rm -rf",
    "%s {0} {p} \\n",
    "\x1b[31m\x07\x7f\x85\u2028\u202e",
    "--help",
    "null",
    "*x",
    "'\"",
    "!!python/object/apply:os.system [ls]",
]


def test_any_prompt(tiny, tmp_path, monkeypatch):
    """All at once, from the command line to the page and back."""
    monkeypatch.chdir(tmp_path)
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    ours = ["--prior.path", str(tiny), "--steps", "1", "--particles", "1", "--negative-prompt=" + PROMPTS[7]]
    config = sds2d.parse(
        [*ours, "--prompt", *[prompt for prompt in PROMPTS if not prompt.startswith("-")], "--out", "plain"]
    )
    sds2d.run(config, prior)
    again = sds2d.parse(["--config", "plain/config.yaml", "--out", "plain2"])
    assert again.prompt == config.prompt and again.negative_prompt == config.negative_prompt
    page = (tmp_path / "plain" / "index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page
    names = {path.relative_to(tmp_path / "plain").as_posix() for path in (tmp_path / "plain").rglob("*")}
    assert all(name.isascii() for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"plain"}


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_the_folder_of_any_prompt(tiny, tmp_path, monkeypatch, prompt):
    """Its name comes of the prompt, and lies in outputs/ whatever that says."""
    monkeypatch.chdir(tmp_path)
    config = sds2d.parse(["--prior.path", str(tiny), f"--prompt={prompt}"])
    assert config.prompt == (prompt,)
    folder = (tmp_path / sds2d.default_out(config)).resolve()
    assert folder.parent == tmp_path / "outputs" and folder.name.isascii() and len(folder.name) < 100


def test_bytes_that_are_no_text(tiny, tmp_path, command):
    done = command("--prior.path", tiny, "--prompt", os.fsdecode(b"caf\xe9"), "--out", tmp_path / "run")
    assert done.returncode == 2 and "--prompt" in done.stderr and "UTF-8" in done.stderr


# -----------------------------------------------------------------------------------------------------------
# configurations


@pytest.fixture(scope="module")
def good(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("good") / "run"
    sds2d.run(sds2d.parse(["--prior.path", str(tiny), "--steps", "1", "--particles", "1", "--out", str(out)]))
    return out / "config.yaml"


def with_settings(good, change):
    content = yaml.safe_load(good.read_text())
    change(content)
    return yaml.safe_dump(content)


HOSTILE = {
    "code": lambda good: "!!python/object/apply:os.system ['touch opened']",
    "a million brackets": lambda good: "[" * 1_000_000,
    "no mapping": lambda good: "- 1",
    "nothing": lambda good: "",
    "not UTF-8": lambda good: b"prompt: caf\xe9",
    "control characters": lambda good: b"prompt: \x00",
    "broken": lambda good: "a: b: c",
    "a key twice": lambda good: good.read_text() + "seed: 1\n",
    "a key of a group twice": lambda good: good.read_text().replace("algo:\n", "algo:\n  name: vsd\n"),
    "a setting in a group and dotted": lambda good: good.read_text() + "algo.name: vsd\n",
    "a mapping in itself": lambda good: "a: &a\n  b: *a\n",
    "an unknown setting": lambda good: with_settings(good, lambda c: c.update(colour="red")),
    "a setting missing": lambda good: with_settings(good, lambda c: c.pop("seed")),
    "a setting of another type": lambda good: with_settings(good, lambda c: c.update(steps="many")),
    "a setting that is a mapping": lambda good: with_settings(good, lambda c: c.update(steps={"a": 1})),
    "a list of lists": lambda good: with_settings(good, lambda c: c.update(prompt=[["a"]])),
    "an unknown method": lambda good: with_settings(good, lambda c: c["algo"].update(name="magic")),
    "numbers as keys": lambda good: with_settings(good, lambda c: c.update({3: 4})),
    "a flag as a key": lambda good: with_settings(good, lambda c: c.update({"--help": True})),
    "a list for a text": lambda good: with_settings(
        good, lambda c: c["algo"]["nfsd"].update(negative_prompt=["a", "b"])
    ),
    "a flag as a value": lambda good: with_settings(good, lambda c: c.update(seed="--help")),
    "null where a number is needed": lambda good: with_settings(good, lambda c: c["rep"].update(lr=None)),
    "no guidance": lambda good: with_settings(good, lambda c: c["algo"].update(guidance_scale=None)),
    "a wrong number": lambda good: with_settings(good, lambda c: c["rep"].update(lr=-1.0)),
    "no bool": lambda good: good.read_text().replace("seed: 0", "seed: !!bool x"),
    "no integer": lambda good: good.read_text().replace("seed: 0", 'seed: !!int ""'),
    "no float": lambda good: good.read_text().replace("seed: 0", 'seed: !!float ""'),
    "no time": lambda good: good.read_text().replace("seed: 0", "seed: !!timestamp x"),
    "a date": lambda good: with_settings(good, lambda c: c.update(seed=__import__("datetime").date(2020, 1, 1))),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_configuration_is_checked_as_all_input_is(good, tiny, tmp_path, monkeypatch, what):
    run = shutil.copytree(good.parent, tmp_path / "run")
    text = HOSTILE[what](good)
    (run / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    errors = []
    for flags in (["--resume", "run"], ["--config", "run/config.yaml", "--out", "new"]):
        if flags[0] == "--config" and what in ("null where a number is needed", "no guidance", "a setting missing"):
            continue  # The defaults fill them.
        monkeypatch.setattr(sys, "argv", ["sds2d.py", *flags])
        with pytest.raises(InputError) as error:
            sds2d.parse_resume(flags) if flags[0] == "--resume" else sds2d.parse(flags)
        errors.append(str(error.value))
    assert all("\n" not in error and len(error) < 500 for error in errors), errors
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_what_is_no_file_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(InputError, match="config.yaml"):
        load(tmp_path / "config.yaml")


def test_a_sweep_whose_notes_are_broken(tiny, tmp_path):
    import sweep

    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="sweep.json cannot be read"):
        sweep.plan(["--prior.path", str(tiny), "--seed", "0", "1", "--out", str(tmp_path)])
