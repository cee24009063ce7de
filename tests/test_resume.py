"""A run that was killed, interrupted or failed goes on from its last checkpoint, and ends as if nothing had
happened."""

import json
import os
import pickle
import random
import shutil
import signal
import time

import pytest
import torch
import yaml
from PIL import Image

import recording.folder
import sds2d
from algorithms.sds import SDS
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from recording import checkpoint
from recording.folder import lock_folder, truncate_records


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing that handles errors handles this."""


def kill_at(monkeypatch, count, inside):
    """The count-th file from now on is the run's last: half of it is written beside, or all of it, but not yet in
    place."""
    left = [count]
    real = os.replace

    def replace(source, target):
        left[0] -= 1
        if not left[0]:
            if inside:
                os.truncate(source, os.path.getsize(source) // 2)
            raise Killed
        real(source, target)

    monkeypatch.setattr(recording.folder.os, "replace", replace)


@pytest.fixture(scope="module")
def prior(tiny):
    return Checkpoint(PriorConfig(path=str(tiny)))


def flags_for(name, kind, tiny, folder):
    """Four steps, or DDIM's least, of each method and representation, with a checkpoint after each and pictures at
    every second."""
    steps = 5 if sds2d.ALGORITHMS[name].is_sampler else 4
    flags = [
        "--prior.path",
        tiny,
        "--algo.name",
        name,
        "--rep.kind",
        kind,
        "--steps",
        steps,
        "--prompt",
        "a fox",
        "a fish",
        "--particles",
        "1",
        "--log.every",
        "2",
        "--log.checkpoint-every",
        "1",
        "--log.timesteps",
        "500",
        "--log.tile",
        "64",
    ]
    if sds2d.ALGORITHMS[name].edits:
        Image.effect_noise((64, 64), 80).save(folder / "noise.png")
        flags += ["--source-image", folder / "noise.png", "--source-prompt", "a hat"]
        flags += ["--rep.fit-steps", "3"] if kind not in ("latent", "pixel") else []
    flags += {"gaussian2d": ["--rep.num-points", "30"], "bezier": ["--rep.num-strokes", "10"]}.get(kind, [])
    return [str(flag) for flag in flags]


def same_run(one, other):
    """Byte for byte all that a run leaves, but for how long it took and where it lies; the checkpoint's contents."""

    def files(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    assert files(one) == files(other)
    for name in files(one):
        if name == "metrics.jsonl":
            lines = [
                [{**json.loads(line), "seconds": 0} for line in (folder / name).read_text().splitlines()]
                for folder in (one, other)
            ]
            assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == list(range(len(lines[0])))
        elif name == checkpoint.NAME:
            assert_equal(*(torch.load(folder / name, weights_only=True) for folder in (one, other)))
        elif name not in ("index.html", "config.yaml"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def assert_equal(one, other):
    """The same tensors to the bit, numbers and names, in nested dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name, value in one.items():
            assert_equal(value, other[name])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert type(one) is type(other) and one == other


def begin(flags, out, prior, *more):
    return sds2d.run(sds2d.parse([*flags, *map(str, more), "--out", str(out)]), prior).images


def killed(flags, out, prior, monkeypatch, count):
    """A run that dies inside its file number `count`; beside it, in whole/, the same one that does not."""
    begin(flags, out.with_name("whole"), prior)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, count, inside=True)
        begin(flags, out, prior)


def resume(out, prior, *flags):
    config = sds2d.parse_resume(["--resume", str(out), *map(str, flags)])
    return sds2d.run(config, prior, resume=True).images


@pytest.mark.parametrize(
    "name, kind",
    # A method's state and a representation's know nothing of each other.
    [
        *((name, "latent") for name in sds2d.ALGORITHMS),
        *((name, kind) for kind in sds2d.REPRESENTATIONS if kind != "latent" for name in ("sds", "vsd", "dds")),
    ],
)
def test_every_method_and_representation_resumes(name, kind, tiny, prior, tmp_path, monkeypatch):
    """Killed in the middle of a file, and once more when one is written and not yet in its place."""
    dies_twice(flags_for(name, kind, tiny, tmp_path), f"{name} {kind}", prior, tmp_path, monkeypatch)


LOOP = "--particles 3 --batch 2 --algo.repulsion svgd --algo.updates-per-step 2 --rep.lr-schedule cosine"


@pytest.mark.parametrize(
    "name, options",
    [
        ("sds", f"{LOOP} --rep.lr-warm-up 2"),
        ("vsd", "--algo.vsd.phi full"),
        ("vsd", "--algo.vsd.phi particles"),
        ("vsd", "--algo.vsd.lora-layers all --algo.vsd.lora-warm-up 2"),
        ("sdi", "--algo.sdi.noise cached --particles 3 --batch 2"),
        ("lods", "--particles 3 --batch 2"),
        ("cfd", "--algo.cfd.gamma 0.3"),
    ],
)
def test_options_resume(name, options, tiny, prior, tmp_path, monkeypatch):
    flags = [*flags_for(name, "latent", tiny, tmp_path), *options.split()]
    dies_twice(flags, options, prior, tmp_path, monkeypatch)


def dies_twice(flags, seed, prior, tmp_path, monkeypatch):
    out = tmp_path / "run"
    images = begin(flags, tmp_path / "whole", prior)
    assert images.shape[1:] == (3, 64, 64) and images.isfinite().all() and not torch.equal(images[0], images[-1])
    rng = random.Random(seed)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, rng.randint(1, 20), inside=True)
        begin(flags, out, prior)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, rng.randint(1, 12), inside=False)
        resume(out, prior)
    resume(out, prior)
    same_run(tmp_path / "whole", out)


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.002)


def steps_done(out):
    file = out / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


LONG = ["--steps", "40", "--particles", "2", "--log.every", "4", "--log.checkpoint-every", "2", "--log.tile", "64"]
VSD = [*LONG, "--algo.name", "vsd", "--rep.kind", "gaussian2d", "--rep.num-points", "30", "--steps", "20"]


def undisturbed(nursery, tiny, folder, flags):
    done = nursery.start("--prior.path", tiny, *flags, "--out", folder / "run")
    assert done.communicate() and done.returncode == 0
    return folder / "run"


@pytest.fixture(scope="module")
def whole(nursery, tiny, tmp_path_factory):
    return undisturbed(nursery, tiny, tmp_path_factory.mktemp("undisturbed"), LONG)


@pytest.mark.slow
def test_ten_kills_at_random_moments(nursery, tiny, tmp_path):
    """SIGKILL, each second time as soon as a file is seen half-written; each time the run goes on where it was."""
    out, rng, killed, writing = tmp_path / "run", random.Random(0), 0, 0
    (tmp_path / "whole").mkdir()
    whole = undisturbed(nursery, tiny, tmp_path / "whole", VSD)
    while killed < 10:
        process = (
            nursery.start("--resume", out) if out.exists() else nursery.start("--prior.path", tiny, *VSD, "--out", out)
        )
        # Anywhere: before the first step, in the next ones, or as soon as a file is seen half-written.
        time.sleep(rng.uniform(0, 0.8))
        if killed % 2:
            wait_for(lambda: list(out.glob("**/.*.part*")), process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was not over yet"
        killed, writing = killed + 1, writing + bool(list(out.rglob(".*.part*")))
    assert writing >= 3, "inside writes among them"
    done = nursery.start("--resume", out)
    assert done.communicate() and done.returncode == 0
    same_run(whole, out)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_a_finished_one(nursery, whole, tiny, tmp_path, number, code):
    out = tmp_path / "run"
    process = nursery.start("--prior.path", tiny, *LONG, "--out", out)
    wait_for(lambda: steps_done(out) >= 6, process)
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == code
    last = error.strip().splitlines()[-1]
    assert (
        last.startswith("sds2d.py: stopped; ")
        and last.endswith(f"--resume {out} continues")
        and "Traceback" not in error
    )
    step = steps_done(out)
    assert 6 <= step < 40 and (out / f"images/step_{step:06d}.png").is_file()
    for name in ("final.png", "final_01.png", "video.mp4", "index.html", "schedule.png", checkpoint.NAME):
        assert (out / name).stat().st_size > 0
    assert not list(out.rglob(".*.part*"))
    done = nursery.start(*last.split(" sds2d.py ")[1].removesuffix(" continues").split())
    assert done.communicate() and done.returncode == 0
    same_run(whole, out)


def test_a_second_ctrl_c_ends_at_once(nursery, whole, tiny, tmp_path):
    out = tmp_path / "run"
    process = nursery.start("--prior.path", tiny, *LONG, "--out", out)
    wait_for(lambda: (out / "images" / "step_000008.png").is_file(), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130 and not (out / "final.png").exists()
    done = nursery.start("--resume", out)
    assert done.communicate() and done.returncode == 0
    same_run(whole, out)


def test_more_steps(tiny, prior, tmp_path):
    """Where neither method nor schedule looks at the run's length, a run that has grown is one that was as long
    from the start."""
    flags, out = flags_for("vsd", "pixel", tiny, tmp_path), tmp_path / "run"
    flags += ["--algo.vsd.lora-particles", "1", "--schedule.shared-t"]  # which draw from what the particles share
    begin(flags, tmp_path / "whole", prior, "--steps", 7)
    begin(flags, out, prior)
    resume(out, prior, "--steps", 7)
    same_run(tmp_path / "whole", out)
    assert yaml.safe_load((out / "config.yaml").read_text())["steps"] == 7
    resume(out, prior)  # of a run that is over: the same once more
    same_run(tmp_path / "whole", out)


class Fixed(SDS):
    """SDS with one noise, drawn at the first step."""

    def __init__(self, prior, particles, *arguments):
        super().__init__(prior, particles, *arguments)
        self.register_buffer("noise", torch.zeros(len(particles), *prior.latent_shape))

    def gradient(self, z, t, particles, progress):
        if not self.noise.any():
            self.noise = particles.noise_like(z)
        return self.prior.predict_noise(self.prior.add_noise(z, self.noise, t), t, particles.y) - self.noise


class Learns(SDS):
    """SDS with state of each kind that PyTorch saves: a tensor, parameters and their optimizer."""

    def __init__(self, prior, particles, *arguments):
        super().__init__(prior, particles, *arguments)
        self.register_buffer("mean", torch.zeros(len(particles), *prior.latent_shape))
        self.offsets = torch.nn.ParameterList([torch.zeros(prior.latent_shape) for _ in range(2)])
        self.optimizer = torch.optim.Adam(self.offsets, lr=0.01)

    def gradient(self, z, t, particles, progress):
        gradient = super().gradient(z, t, particles, progress) + self.offsets[0].detach()
        self.mean = 0.5 * self.mean + 0.5 * gradient
        return self.mean.clone()

    def update(self, z, t, particles, progress):
        sum((z - offset).square().sum() for offset in self.offsets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("watched", [(), ("--log.timesteps-every", "1")], ids=["alone", "watched"])
def test_a_tensor_parameters_and_an_optimizer_are_resumed(tiny, prior, tmp_path, monkeypatch, watched):
    """Also to the bytes of a run that nobody watches."""
    monkeypatch.setitem(sds2d.ALGORITHMS, "sds", Learns)
    flags, out = flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run"
    begin(flags, tmp_path / "unwatched", prior)
    killed([*flags, *watched], out, prior, monkeypatch, 9)
    resume(out, prior)
    same_run(tmp_path / "whole", out)
    assert (out / "final_00.png").read_bytes() == (tmp_path / "unwatched" / "final_00.png").read_bytes()


class Remembers(SDS):
    """SDS that keeps something that PyTorch does not save."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.history, self.count, self.table, self.noise = [], 0, {"last": None}, torch.zeros(1)

    def gradient(self, z, t, particles, progress):
        gradient = super().gradient(z, t, particles, progress)
        self.remember(gradient)
        return gradient


@pytest.mark.parametrize("name", ["history", "count", "table", "noise", "in place", "new"])
def test_state_that_no_checkpoint_would_have_is_an_error(tiny, prior, tmp_path, monkeypatch, name):
    remember = {
        "history": lambda self, g: self.history.append(g),
        "count": lambda self, g: setattr(self, "count", self.count + 1),
        "table": lambda self, g: self.table.update(last=g),
        "noise": lambda self, g: setattr(self, "noise", g),
        "in place": lambda self, g: self.noise.add_(1),
        "new": lambda self, g: setattr(self, "new", g),
    }
    monkeypatch.setattr(Remembers, "remember", remember[name], raising=False)
    monkeypatch.setitem(sds2d.ALGORITHMS, "sds", Remembers)
    with pytest.raises(InputError, match=f"Remembers.{'noise' if name == 'in place' else name} .*register_buffer"):
        begin(flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run", prior)


def test_a_method_may_say_itself_what_is_saved(tiny, prior, tmp_path, monkeypatch):
    class Tells(Remembers):
        def remember(self, gradient):
            self.count += 1

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    monkeypatch.setitem(sds2d.ALGORITHMS, "sds", Tells)
    flags, out = flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run"
    killed(flags, out, prior, monkeypatch, 9)
    resume(out, prior)
    same_run(tmp_path / "whole", out)


@pytest.mark.parametrize("every", [1, 100])
def test_what_a_method_keeps_is_resumed(tiny, prior, tmp_path, monkeypatch, every):
    monkeypatch.setitem(sds2d.ALGORITHMS, "sds", Fixed)
    flags, out = [*flags_for("sds", "latent", tiny, tmp_path), "--log.checkpoint-every", str(every)], tmp_path / "run"
    killed(flags, out, prior, monkeypatch, 9)
    resume(out, prior)
    same_run(tmp_path / "whole", out)


def nadam(config, parameters):
    return torch.optim.NAdam(parameters, lr=0.05, momentum_decay=0.01)


def rmsprop(config, parameters):
    return torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9, centered=True)


@pytest.mark.parametrize("make", [nadam, rmsprop])
def test_any_optimizer_of_torch_resumes(tiny, prior, tmp_path, monkeypatch, make):
    monkeypatch.setattr(sds2d, "make_optimizer", make)
    flags, out = flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run"
    killed(flags, out, prior, monkeypatch, 14)
    resume(out, prior)
    same_run(tmp_path / "whole", out)


def test_before_the_first_checkpoint_a_run_begins_anew(tiny, prior, tmp_path, monkeypatch):
    flags, out = flags_for("sds", "gaussian2d", tiny, tmp_path), tmp_path / "run"
    killed(flags, out, prior, monkeypatch, 1)
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "config.yaml",
        "environment.json",
        "images",
        "metrics.jsonl",
    ]
    assert [path.match(".step_000000.*.part.png") for path in (out / "images").iterdir()] == [True]
    resume(out, prior)
    same_run(tmp_path / "whole", out)


def test_one_process_at_a_time(tiny, prior, tmp_path):
    flags, out = flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run"
    begin(flags, out, prior)
    with lock_folder(out), pytest.raises(InputError, match="another process"):
        resume(out, prior)


def test_another_prior_or_another_picture_is_refused(tiny, stable_diffusion, prior, tmp_path):
    flags, out = flags_for("dds", "latent", tiny, tmp_path), tmp_path / "run"
    begin(flags, out, prior)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    with pytest.raises(InputError, match="noise.png"):
        resume(out, prior, "--steps", 9)
    file = out / "environment.json"
    environment = file.read_text()
    for wrong, what in (
        (environment.replace(prior.sha256, "0" * 64), "prior"),
        ("{}", "prior"),
        ("[", "environment.json"),
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match=what):
            resume(out, prior, "--steps", 9)
    file.unlink()
    with pytest.raises(InputError, match="environment.json"):
        resume(out, prior, "--steps", 9)
    file.write_text(environment)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_other_versions_are_told_of(tiny, prior, tmp_path, capsys):
    flags, out = flags_for("sds", "latent", tiny, tmp_path), tmp_path / "run"
    begin(flags, out, prior)
    file = out / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch": "1.0"}))
    resume(out, prior)
    assert f"warning: torch was 1.0, is {torch.__version__}:" in capsys.readouterr().err
    assert json.loads(file.read_text())["torch"] == torch.__version__


def rewrite(**changes):
    """→ a function that writes the file again with other values, None for one that is taken away."""

    def damage(file):
        state = torch.load(file, weights_only=True) | changes
        torch.save({name: value for name, value in state.items() if value is not None}, file)

    return damage


DAMAGE = {
    "cut off": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: file.write_bytes(b""),
    "other bytes": lambda file: file.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
    "code": lambda file: file.write_bytes(pickle.dumps(print)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "of no step": rewrite(step=None),
    "of a step that is none": rewrite(step=-1),
    "of a later step": rewrite(step=9),
    "of a step in words": rewrite(step="1"),
    "without generators": rewrite(particles=None),
    "without parameters": rewrite(parameters=None),
    "of another shape": rewrite(parameters=[torch.zeros(3)]),
    "of another dtype": rewrite(parameters=[torch.zeros(2, 4, 8, 8).double()]),
    "without an optimizer": rewrite(optimizer=None),
    "of an optimizer with other groups": rewrite(optimizer={"state": {}, "param_groups": []}),
    "with more": rewrite(more=torch.zeros(3)),
    "with a broken generator": rewrite(particles={"generators": [torch.zeros(3)] * 3}),
    "with too few generators": rewrite(particles={"generators": []}),
}


@pytest.fixture(scope="module")
def finished(tiny, prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    begin(flags_for("sds", "latent", tiny, folder), folder / "run", prior)
    return folder / "run"


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused(finished, prior, tmp_path, what):
    out = shutil.copytree(finished, tmp_path / "run")
    DAMAGE[what](out / checkpoint.NAME)
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("[!.]*"))
    with pytest.raises(InputError, match=checkpoint.NAME) as error:
        resume(out, prior)
    assert "\n" not in str(error.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("[!.]*")) == before, "nothing is touched"


def test_cutting_back(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "timesteps").mkdir()
    mine = ["compare_20240612.png", "images/notes_20240612.png", "images/.hidden.png", "images/step_best.png"]
    for name in (
        "images/step_000003.png",
        "images/step_000004.png",
        "images/step_1000000.png",
        "images/.step_000002.part.png",
        ".video.part.mp4",
        "final_00.png",
        "timesteps/x0_000004.png",
        "timesteps/x0_000003.png",
        *mine,
    ):
        (tmp_path / name).write_text("x")
    lines = [json.dumps({"step": step}) + "\n" for step in range(6)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 6, "t"')
    (tmp_path / "scores.jsonl").write_bytes(lines[0].encode() + b'\xff\xfe\n[]\n{\n{"step": "x"}\n' + lines[5].encode())
    truncate_records(tmp_path, 4)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(
        ["final_00.png", "images/step_000003.png", "metrics.jsonl", "scores.jsonl", "timesteps/x0_000003.png", *mine]
    )
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:4])
    assert (tmp_path / "scores.jsonl").read_text() == lines[0]
