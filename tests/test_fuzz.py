"""Any flags at all: a run of one or two steps ends with finite pictures of the right shape, or is refused in one
line."""

import functools
import json
import shutil
from collections import Counter
from dataclasses import is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import sds2d
from config import Config
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig


def flags_of(cls, prefix="--"):
    """(flag, type) of every setting."""
    for name, hint in get_type_hints(cls).items():
        flag = prefix + name.replace("_", "-")
        yield from flags_of(hint, flag + ".") if is_dataclass(hint) else [(flag, hint)]


TEXTS = st.sampled_from(["a fox", "", "a fish on a blue background", "🦊 狐", "</b>\n../x", "x " * 300]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=20
)
COUNTS = st.integers(-1, 3)
# Mostly what makes sense; sometimes anything.
SENSIBLE = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 2.0, 0.5, 20.0, 500.0, 980.0])
FLOATS = st.one_of(SENSIBLE, SENSIBLE, SENSIBLE, st.floats(-10, 1000) | st.floats())
OWN = {  # Flags that only take what a test can afford, or what lies in its folder.
    "--steps": st.sampled_from(["1", "2", "2", "5"]),
    "--particles": st.sampled_from(["1", "1", "2", "0"]),
    "--prompt": st.lists(TEXTS.filter(lambda text: not text.startswith("-")), min_size=1, max_size=2),
    "--negative-prompt": TEXTS,
    "--source-image": st.sampled_from(["{folder}/picture.png", "{folder}/missing.png", "{folder}/text.png"]),
    "--rep.init-images": st.sampled_from(["{folder}/picture.png", "{folder}/picture.png", "{folder}/text.png"]),
    "--seed": st.sampled_from(["0", "7", "4294967294", "4294967295", "-1"]),
    "--rep.num-points": st.sampled_from(["1", "3", "40", "0"]),
    "--eval.clip": st.sampled_from(["none", "{folder}/missing"]),
    "--log.tile": st.sampled_from(["1", "64", "100", "0"]),
    "--prior.dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    "--prior.device": st.just("cpu"),
    "--algo.pds.num-inference-steps": st.sampled_from(["1", "100", "500", "1000", "1001"]),
}
SKIPPED = {"--out", "--prior.path", "--command", "--config-file", "--filled"}  # which the test gives


def spell(flag, words):
    """With = a first word may begin with a dash."""
    return (f"{flag}={words[0]}", *words[1:]) if words else (flag,)


def values(flag, hint):
    """A strategy of the words behind a flag."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if flag in OWN:
        return OWN[flag].map(lambda value: value if isinstance(value, list) else [value])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint)).map(lambda value: [value])
    if type(None) in get_args(hint):
        return values(flag, parts[0] if len(parts) == 1 else parts[0] | parts[1])
    if get_origin(hint) is tuple:
        count = None if ... in parts else len(parts)
        return st.lists(FLOATS.map(repr), min_size=count or 0, max_size=count or 6)
    return {int: COUNTS.map(str), float: FLOATS.map(repr), str: TEXTS}[hint].map(lambda value: [value])


KNOWN = {flag: values(flag, hint) for flag, hint in flags_of(Config) if flag not in SKIPPED and hint is not bool}
KNOWN["--schedule.shared-t"] = st.just([])


@st.composite
def command_lines(draw):
    """A method and a representation, what an edit needs, a schedule with its own flags as often as not, and a few
    flags more."""
    name, kind = draw(st.sampled_from(list(sds2d.ALGORITHMS))), draw(st.sampled_from(list(sds2d.REPRESENTATIONS)))
    samples = sds2d.ALGORITHMS[name].is_sampler
    given = {"--algo.name": [name], "--rep.kind": ["latent" if samples else kind]}
    given |= {"--steps": ["5" if samples else "2"], "--particles": ["1"]}
    if sds2d.ALGORITHMS[name].edits and draw(st.integers(0, 9)):
        given |= {"--source-image": ["{folder}/picture.png"], "--source-prompt": ["a hat"]}
    own = [
        flag
        for flag in KNOWN
        if flag.startswith((f"--algo.{name}.", "--rep.", "--log.", "--schedule.t", "--schedule.w", "--seed"))
    ]
    for flag in draw(st.lists(st.sampled_from(own), max_size=2)) + draw(
        st.lists(st.sampled_from(sorted(KNOWN)), max_size=1)
    ):
        if flag not in ("--algo.name", "--rep.kind"):
            given[flag] = draw(KNOWN[flag])
    return [word for flag, words in given.items() for word in spell(flag, words)]


@functools.cache
def loaded(path, dtype):
    return Checkpoint(PriorConfig(path=path, dtype=dtype))


ends = Counter()


def one(flags, tiny, folder):
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    flags = [word.replace("{folder}", str(folder)) for word in flags]
    before = sorted(folder.rglob("*"))
    try:
        config = sds2d.parse([*flags, "--prior.path", str(tiny), "--out", str(out)])
        images, _ = sds2d.run(config, loaded(str(tiny), config.prior.dtype.replace("auto", "float32")))
    except InputError as error:
        ends["refused"] += 1
        assert str(error) and "\n" not in str(error) and len(str(error)) < 1000
        assert sorted(folder.rglob("*")) == before, "nothing is written"
        return
    except FloatingPointError as error:
        ends["not finite"] += 1
        assert "particle" in str(error) and "\n" not in str(error)
        assert not (out / "final.png").exists()
        return
    ends["finished"] += 1
    rows = len(config.prompt) * config.particles
    assert images.shape == (rows, 3, 64, 64) and images.isfinite().all()
    assert (
        len(list(out.glob("final_*.png"))) == rows
        and (out / "index.html").is_file()
        and not list(out.rglob(".*.part*"))
    )
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(
        range(config.steps)
    )
    again = sds2d.parse(["--config", str(out / "config.yaml"), "--out", str(folder / "again")])
    again.out, again.command, again.config_file = config.out, config.command, None
    for name in ("dtype", "device"):  # The file says what auto was.
        if getattr(config.prior, name) == "auto":
            setattr(config.prior, name, getattr(again.prior, name))
    assert repr(again) == repr(config)  # as text, where nan is nan


@pytest.fixture
def folder(tmp_path):
    Image.effect_noise((40, 30), 80).save(tmp_path / "picture.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


WHENEVER = dict(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def many(count, tiny, folder, **options):
    ends.clear()
    settings(max_examples=count, **options, **WHENEVER)(
        given(flags=command_lines())(lambda flags: one(flags, tiny, folder))
    )()
    print(dict(ends))
    assert ends["finished"] >= count / 4


@pytest.mark.slow
def test_thirty_command_lines(tiny, folder):
    many(30, tiny, folder, derandomize=True)


@pytest.mark.nightly
def test_three_hundred_command_lines(tiny, folder):
    many(300, tiny, folder, database=None)
