"""--log.tensorboard, read back as TensorBoard reads it."""

import importlib.util
import json

import pytest

import sds2d
from errors import InputError


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        sds2d.parse(["--log.tensorboard"])


def test_events_are_those_of_the_files(tiny, tmp_path):
    """Of a run that was stopped after two steps of four and resumed."""
    pytest.importorskip("tensorboard", reason="TensorBoard is optional: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    flags = ["--prior.path", str(tiny), "--particles", "3", "--batch", "2", "--log.every", "2", "--out", str(out)]
    sds2d.run(sds2d.parse([*flags, "--steps", "2", "--schedule.timestep", "uniform", "--log.tensorboard"]))
    sds2d.run(sds2d.parse_resume(["--resume", str(out), "--steps", "4"]), resume=True)
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seen = {}
    for particle in range(3):
        for name in ("t", "weight", "grad_norm"):
            seen |= {(name, particle, event.step): event.value for event in events.Scalars(f"{name}/{particle}")}
    expected = {
        (name, particle, line["step"]): value
        for line in lines
        for name in ("t", "weight", "grad_norm")
        for particle, value in zip(line["particles"], line[name], strict=True)
    }
    assert seen == pytest.approx(expected)
    assert [event.step for event in events.Images("images")] == [0, 2, 4]
    assert [event.step for event in events.Images("gradients")] == [0, 2]
    assert "timesteps/gradients" in events.Tags()["images"]
