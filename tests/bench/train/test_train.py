"""The training benchmark: everybody does the same work, and the results can be read back."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from edufast.bench import train
from edufast.bench.benchmark import run
from edufast.bench.train import show
from edufast.bench.train.contest import compete
from edufast.bench.train.setting import PAIRS
from edufast.utils.errors import UserError


@pytest.mark.parametrize("source", [show.ROUTED, show.CACHE])
def test_all_contestants_compute_the_same_loss(setting, source):
    """On batches for live teachers, and on those whose teacher outputs a filled cache holds."""
    everybody = train.contestants(setting, compiling=False)
    others = {show.CACHE, show.FLOOR, show.FLOOR_CACHED} - {source}
    learners = {n: make() for n, make in everybody.items() if n not in others}
    batches = list(itertools.islice(learners[source].batches(), 2))
    if source == show.CACHE:  # a view's number means another view where there are more
        learners.pop(show.FILLING)
    losses = {n: [float(c.step(b)) for b in batches] for n, c in learners.items()}
    expected = torch.tensor(losses[show.PLAIN])
    assert expected.diff().abs() > 1e-3  # the step in between counted
    exact = (show.PLAIN, "+ Loader", "+ folded", "+ fused", show.ROUTED)
    for name, found in losses.items():
        rounding = 1e-4 if name.startswith(exact) else 3e-2
        torch.testing.assert_close(torch.tensor(found), expected, rtol=rounding, atol=0, msg=name)


def test_results_are_written_read_and_not_measured_again(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PAIRS, "tiny", pair)
    contests = train.cases(True, "cpu", ["tiny"], [12])
    monkeypatch.setattr(train, "compete", lambda *a, **k: compete(*a, **k | {"seconds": 0.01}))
    run(train.BENCHMARK, True, tmp_path, "cpu", None, contests)
    text = (tmp_path / "train.json").read_text()
    (result,) = json.loads(text)["results"]
    assert (result["pair"], result["batch_size"], result["epoch_samples"]) == ("tiny", 12, 48)
    assert show.FLOOR in result["results"]
    for score in result["results"].values():
        assert score.keys() == {"images_per_second", "speeds", "data_wait", "startup"}
    assert "tiny, batch 12" in capsys.readouterr().out
    assert "| (a) plain loop |" in (tmp_path / "train.md").read_text()
    assert (tmp_path / "train.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(train, "compete", None)  # would fail if it were asked
    run(train.BENCHMARK, True, tmp_path, "cpu", None, contests)
    with pytest.raises(TypeError):  # quick results are no substitute
        run(train.BENCHMARK, False, tmp_path, "cpu", None, contests)

    (tmp_path / "train.json").write_text(text.replace(torch.__version__, "0.0"))
    with pytest.raises(UserError, match=r"torch '0.0' and .*; choose another folder"):
        run(train.BENCHMARK, True, tmp_path, "cpu", None, contests)


@pytest.mark.parametrize("name", ["resnet1-resnet0", "resnet50-mobilenet_v2"])
def test_a_pair_that_cannot_be_measured_is_refused(name):
    with pytest.raises(UserError, match=name):
        train.cases(True, "cpu", [name])
