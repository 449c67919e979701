"""The profile of a training step: phases, operators and a trace."""

from __future__ import annotations

import json

import torch

from edufast.bench.train import profile
from edufast.bench.train.ladder import LoopOptions, SchoolLoop


def test_profile_has_every_phase_and_a_trace(setting, tmp_path):
    found = profile.profile_step(SchoolLoop(setting, LoopOptions()), tmp_path / "trace.json")
    assert list(found.phases) == list(profile.PHASES)
    assert min(found.phases.values()) > 0
    assert "convolution_backward" in found.operators
    assert profile.plot(found, "tiny").startswith(b"\x89PNG")
    names = {
        event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    }
    assert set(profile.PHASES) <= names
    assert not hasattr(torch.Tensor.backward, "__wrapped__")  # nothing stays behind
