"""The command from a recipe to a bundle that was replayed."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from edufast.experiments import pipeline as module
from tests.commands import edufast, events, one_line

GATES = ("--max-drop", "100")
EARLY = ("--to", "onnx", "--early-exit")


def lines(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    """Two grades: one exit."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["teachers"] = [{"model": "resnet8", "classes": classes} for classes in ("0-2", "3-5")]
    recipe["curriculum"] = {"preset": "default", "epochs": 3, "shares": [1, 2]}
    path = tmp_path_factory.mktemp("two") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def delivered(recipe, tmp_path_factory):
    """A pipeline's folder, and what it printed."""
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, lines(edufast("pipeline", recipe, "-o", out, *GATES, "--json"))


def test_a_recipe_becomes_a_bundle_whose_files_are_in_the_report(delivered) -> None:
    out, (trained, *replayed, done) = delivered
    assert trained["run"] == str(out) and set(trained["accuracy"]) == {"education", "scratch"}
    assert done == {"event": "pipeline", "bundle": str(out / "student.edge"), "cached": False}
    names = [
        f"student{part}{suffix}" for suffix in (".onnx", ".int8.onnx") for part in ("", "-exit1")
    ]
    assert [line["file"]["name"] for line in replayed] == names
    page, logged = (out / "report.html").read_text(), [e.get("path") for e in events(out)]
    for name in names:
        assert name in page and name in logged
        assert (out / name).read_bytes() == (out / "student.edge" / name).read_bytes()


def test_what_is_done_is_not_done_again_until_it_is_damaged(delivered, recipe, monkeypatch) -> None:
    out, _ = delivered
    command = ("pipeline", recipe, "-o", out, *GATES, "--json")
    written = []
    whole = module.write_bundle
    monkeypatch.setattr(
        module, "write_bundle", lambda *arguments: written.append(1) or whole(*arguments)
    )
    assert lines(edufast(*command))[-1]["cached"] and not written
    file = out / "student.edge" / "student.onnx"
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    assert not lines(edufast(*command))[-1]["cached"] and written == [1]
    assert file.read_bytes() == content
    # Other gates: another bundle.
    early = lines(edufast(*command, *EARLY, "100"))
    assert not early[-1]["cached"] and written == [1, 1]
    names = [line["file"]["name"] for line in early[1:-1]]
    assert names == [f"student{part}.onnx" for part in ("", "-exit1", "-early")]
    assert not (out / "student.edge" / "student.int8.onnx").exists()


def test_a_gate_that_fails_ends_with_code_1_and_the_earlier_bundle_stays(
    delivered, recipe, tmp_path
) -> None:
    out = shutil.copytree(delivered[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (out / "student.edge").iterdir()}
    result = edufast("pipeline", recipe, "-o", out, *EARLY, "0%", code=1)
    assert "no early exits satisfy" in one_line(result)
    assert {path.name: path.read_bytes() for path in (out / "student.edge").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "tflite"), "no export format is called 'tflite'"),
        (("--to", "executorch"), "expected onnx or onnx-int8 among the formats"),
        (("--early-exit", "x"), "--early-exit is 'x'"),
        (
            ("--early-exit", "0.5", "--set", "curriculum.exit_weight=0"),
            "has none; expected curriculum.exit_weight above 0",
        ),
        (("--max-drop", "nan"), "max_drop is nan; expected points of accuracy"),
        (("--set", "student.model=nothing"), "nothing"),
    ],
)
def test_what_is_asked_for_wrongly_is_told_before_anything_is_trained(
    options, message, recipe, tmp_path
) -> None:
    result = edufast("pipeline", recipe, "-o", tmp_path / "run", *options, code=2)
    assert message in one_line(result) and not (tmp_path / "run").exists()
