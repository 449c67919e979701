"""The training benchmark: everybody does the same work, and the results can be read back."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from edufast.bench import train
from edufast.bench.train import profile, show
from edufast.bench.train.contest import compete
from edufast.bench.train.costs import ALL, DEFAULT, ONE, training_costs
from edufast.bench.train.ladder import Means, SchoolLoop
from edufast.bench.train.peers import CarefulLoop, PlainLoop
from edufast.bench.train.setting import PAIRS, Pair, Setting, synthetic
from edufast.utils.errors import UserError

TINY = Pair("resnet14", "resnet8", image_size=16, classes=6, samples=48)


@pytest.fixture
def setting() -> Setting:
    return synthetic(TINY, 12, torch.device("cpu"))


@pytest.mark.parametrize("source", [show.ROUTED, show.CACHE])
def test_all_contestants_compute_the_same_loss(setting, source):
    """On live teachers' batches, and on those whose answers a filled cache holds."""
    everybody = train.contestants(setting, compiling=False)
    others = {show.CACHE, show.FLOOR, show.FLOOR_CACHED} - {source}
    learners = {n: make() for n, make in everybody.items() if n not in others}
    batches = list(itertools.islice(learners[source].batches(), 2))
    if source == show.CACHE:  # a view's number means another view where there are more
        learners.pop(show.FILLING)
    losses = {n: [float(c.step(b)) for b in batches] for n, c in learners.items()}
    expected = torch.tensor(losses[show.PLAIN])
    assert expected.diff().abs() > 1e-3  # the step in between counted
    exact = (show.PLAIN, "+ DALI", "+ folded", "+ fused", show.ROUTED)
    for name, found in losses.items():
        rounding = 1e-4 if name.startswith(exact) else 3e-2
        torch.testing.assert_close(torch.tensor(found), expected, rtol=rounding, atol=0, msg=name)


def test_plain_and_careful_batches_are_views_of_the_data(setting):
    still = replace(setting, augment=replace(setting.augment, pad=0, flip=False))
    mean, std = (torch.tensor(c)[:, None, None] for c in (setting.data.mean, setting.data.std))
    images, classes = setting.data.train.images, setting.data.train.labels
    known = {image.tobytes(): int(c) for image, c in zip(images, classes, strict=True)}
    for loop in (PlainLoop(still), CarefulLoop(still, compiled=False)):
        views, labels = next(loop.batches())
        assert views.shape == (12, 3, 16, 16)
        pixels = ((views * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        assert [known[p.numpy().tobytes()] for p in pixels] == labels.tolist()


def test_contest_times_everybody_the_same_number_of_blocks(setting):
    heard = []
    scores = compete(
        train.contestants(setting, compiling=False),
        12,
        setting.device,
        seconds=0.01,
        rounds=2,
        tell=heard.append,
    )
    assert all(len(score.speeds) == 2 and min(score.speeds) > 0 for score in scores.values())
    turns = [what.partition(": round")[0] for what in heard if ": round" in what]
    assert turns == list(scores) * 2


def test_results_are_written_read_and_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PAIRS, "tiny", TINY)
    monkeypatch.setattr(train, "compete", lambda *a, **k: compete(*a, **k | {"seconds": 0.01}))
    train.main(True, tmp_path, "cpu", None, ["tiny"], [12])
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
    train.main(True, tmp_path, "cpu", None, ["tiny"], [12])
    with pytest.raises(TypeError):  # quick results are no substitute
        train.main(False, tmp_path, "cpu", None, ["tiny"], [12])

    (tmp_path / "train.json").write_text(text.replace(torch.__version__, "0.0"))
    with pytest.raises(UserError, match="another machine"):
        train.main(True, tmp_path, "cpu", None, ["tiny"], [12])


@pytest.mark.parametrize("pair", ["resnet1-resnet0", "resnet50-mobilenet_v2"])
def test_a_pair_that_cannot_be_measured_is_refused(pair):
    with pytest.raises(UserError, match=pair):
        train.main(True, None, "cpu", None, [pair])


def test_payback_counts_steps_until_compiling_has_saved_its_time():
    scores = {
        show.CAREFUL: {"images_per_second": 200.0, "speeds": [200.0, 20.0], "startup": 10.0},
        show.CAREFUL_EAGER: {"images_per_second": 100.0, "speeds": [100.0, 10.0], "startup": 0.0},
    }
    result = {"results": scores, "batch_size": 10}
    assert show.speedup(result, show.CAREFUL, show.CAREFUL_EAGER) == 2
    assert show.payback(result, show.CAREFUL) == "10.0 s, 200 steps"  # 0.05 s of each step
    scores[show.CAREFUL]["speeds"] = [99.0, 9.0]
    assert show.payback(result, show.CAREFUL) == "10.0 s, never"
    assert show.payback(result, show.CAREFUL_EAGER) == ""


def test_profile_has_every_phase_and_a_trace(setting, tmp_path):
    found = profile.profile_step(SchoolLoop(setting, Means()), tmp_path / "trace.json")
    assert list(found.phases) == list(profile.PHASES)
    assert min(found.phases.values()) > 0
    assert "convolution_backward" in found.operators
    assert profile.plot(found, "tiny").startswith(b"\x89PNG")
    names = {
        event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    }
    assert set(profile.PHASES) <= names
    assert not hasattr(torch.Tensor.backward, "__wrapped__")  # nothing stays behind


def test_costs_of_a_whole_training():
    costs = training_costs(TINY)
    (one,) = [cost for cost in costs if cost.method == ONE]
    (every,) = [cost for cost in costs if cost.method == ALL]
    grades = [cost for cost in costs if cost.method == DEFAULT]
    assert every.student == one.student and every.teachers == 3 * one.teachers
    assert [cost.grade for cost in grades] == [1, 2, 3]
    # Shallow students of few classes cost little; the whole one stops learning in part.
    per_epoch = [cost.student / cost.epochs for cost in grades]
    assert per_epoch[0] < per_epoch[1] < per_epoch[2] < one.student / one.epochs
    assert sum(cost.epochs for cost in grades) == one.epochs
    *_, last = show.cost_rows(costs)
    spent = sum(cost.student + cost.teachers for cost in grades) / (one.student + one.teachers)
    assert last[:3] == (DEFAULT, "all", "240") and last[-1] == f"{spent:.2f}"
