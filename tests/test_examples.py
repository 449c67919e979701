"""The examples run as they are, and their students learn."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edufast.edge.bundle import write_bundle
from edufast.models.weights import ModelInfo
from tests.commands import write_pictures
from tests.tiny import tiny_data, tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = (EXAMPLES.parent / "docs/other_loops.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n([^`]*\nclass (\w+)[^`]*)```", PAGE)
CLASSES = {name: block for block, name in BLOCKS}


@pytest.fixture
def run(monkeypatch, capsys):
    """What an example prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        torch.manual_seed(0)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def write_cifar100(path: Path, per_class: int, seed: int) -> None:
    """Records in the layout of CIFAR-100: six classes, of three colours at two heights."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), per_class)
    images = generator.integers(0, 100, (len(labels), 3, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top = 4 + 12 * (label // 3)
        image[label % 3, top : top + 12, 8:24] += 150
    records = [np.zeros((len(labels), 1)), labels[:, None], images.reshape(len(labels), -1)]
    np.concatenate(records, axis=1).astype(np.uint8).tofile(path)


def test_a_graded_training_in_one_file(run, tmp_path):
    write_cifar100(tmp_path / "train.bin", per_class=32, seed=0)
    write_cifar100(tmp_path / "test.bin", per_class=20, seed=1)
    told = run("cifar_in_one_file.py", tmp_path, 16)
    assert re.findall(r"grade (\d): (\d) classes", told) == [("1", "2"), ("2", "4"), ("3", "6")]
    assert float(re.findall(r"accuracy ([\d.]+)%", told)[0]) > 70


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_timm_model_teaches_on_pictures_of_ones_own(run, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    data = tiny_data(classes=3)
    for samples in (data.train, data.val):  # of three colours, which may be mirrored and cropped
        samples.images[np.arange(len(samples)), ..., samples.labels] //= 4
    write_pictures(data, tmp_path)
    torch.manual_seed(0)
    teacher = timm.create_model("test_resnet", num_classes=3)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(match="teacher 0"):  # it knows nothing, and the labels do
        told = run("timm_teacher.py", tmp_path, "test_resnet", "teacher.safetensors")
    assert float(re.findall(r"accuracy ([\d.]+)%", told)[0]) > 80
    assert (tmp_path / "student.onnx").is_file()


def test_the_loss_in_a_loop_of_ones_own(run):
    accuracies = [float(x) for x in re.findall(r"accuracy ([\d.]+)%", run("your_own_loop.py"))]
    assert accuracies[0] < 10 and accuracies[-1] > 80


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("timm_task.py", ["timm", "sklearn"]),
        ("hugging_face_trainer.py", ["transformers", "accelerate", "sklearn"]),
        ("lightning_module.py", ["lightning", "sklearn"]),
        ("accelerate_loop.py", ["accelerate", "sklearn"]),
        ("torchdistill_loss.py", ["torchdistill", "sklearn"]),
        ("keras_model.py", ["keras", "sklearn"]),
    ],
)
def test_two_experts_teach_a_student_in_the_training_of(
    name: str, packages: list[str], run, tmp_path, monkeypatch
):
    for package in packages:  # not imported: Keras takes its backend from the example
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)  # where some of them write
    assert len((EXAMPLES / name).read_text().splitlines()) < 80
    (accuracy,) = re.findall(r"two experts: accuracy ([\d.]+)%", run(name))
    assert float(accuracy) > 80


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_trainer_that_accumulates_takes_the_step_of_one_large_batch(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    example = runpy.run_path(str(EXAMPLES / "hugging_face_trainer.py"))
    exec(CLASSES["DistillationTrainer"], pasted := {})
    halves, network = example["HALVES"], example["network"]
    samples = example["digits"](slice(24), range(10))
    torch.manual_seed(0)
    teachers = [network(half) for half in halves]
    first = network(range(10)).state_dict()
    steps = []
    for batch, accumulated in ((24, 1), (10, 3)):  # the last of three has 4 samples
        student = network(range(10))
        student.load_state_dict(first)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, learning_rate=0.1, optim="sgd", use_cpu=True,
            max_grad_norm=0, lr_scheduler_type="constant", per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated, report_to="none", disable_tqdm=True,
            save_strategy="no",
        )  # fmt: skip
        pasted["DistillationTrainer"](
            model=student, args=arguments, teachers=teachers, slices=halves, train_dataset=samples
        ).train()
        steps.append([student.state_dict()[name] - first[name] for name in first])
    for whole, parts in zip(*steps, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert max(step.abs().max() for step in steps[0]) > 1e-3


def test_language_models_learn_from_two_teachers(run):
    told = run("language_models.py")
    alone, taught = (float(x) for x in re.findall(r"perplexity ([\d.]+)", told))
    assert taught < alone


@pytest.mark.parametrize("name", ["the_loss.ipynb", "a_curriculum.ipynb"])
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / name).read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)  # they would be of another version
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert names["accuracy"] > 0.8
    assert f"accuracy {names['accuracy']:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_to_paste_into_a_loop(soft):
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    model, *teachers = (torch.nn.Linear(8, 5) for _ in range(3))
    labels = torch.rand(4, 5).softmax(1) if soft else torch.arange(4)
    names["distillation_loss"](model, teachers, torch.randn(4, 8), labels).backward()
    assert model.weight.grad.abs().sum() > 0
    assert all(teacher.weight.grad is None for teacher in teachers)


@pytest.mark.parametrize(
    ("name", "example"),
    [("ExpertsTask", "timm_task.py"), ("DistillationTrainer", "hugging_face_trainer.py")],
)
def test_a_class_to_paste_is_that_of_the_example(name, example):
    assert CLASSES[name].split("\n\n\n")[1] in (EXAMPLES / example).read_text("utf-8")


def test_teachers_of_timms_script_which_calls_train_of_the_student_only_stay_in_eval_mode():
    pytest.importorskip("timm")
    student = torch.nn.Linear(8, 5)
    teachers = [torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Dropout()) for _ in range(2)]
    exec(CLASSES["ExpertsTask"], pasted := {})
    task = pasted["ExpertsTask"](student, teachers)
    for train in (student.train, task.train):
        train()
        assert student.training and not any(module.training for module in task.experts.modules())
    task(torch.randn(4, 8), torch.arange(4))["loss"].backward()
    assert student.weight.grad.abs().sum() > 0
    assert all(teacher[0].weight.grad is None for teacher in teachers)


def test_a_program_in_cpp_answers_as_the_bundle_says(tmp_path) -> None:
    executorch = pytest.importorskip("executorch")
    pytest.importorskip("onnxruntime")
    cmake = [sys.executable, "-m", "cmake"]
    build = tmp_path / "build"
    found = f"-DCMAKE_PREFIX_PATH={next(iter(executorch.__path__))}"
    subprocess.run([*cmake, "-S", EXAMPLES / "device", "-B", build, found], check=True)
    subprocess.run([*cmake, "--build", build], check=True)
    data = tiny_data()
    info = ModelInfo.describe("tiny", data, range(6), 0.5, 0, 0.0)
    formats = ["onnx", "executorch", "executorch-int8"]
    bundle = tmp_path / "student.edge"
    write_bundle(tiny_model(6), info, data, bundle, formats, max_drop=100)
    with np.load(bundle / "golden.npz") as golden:
        for file in ("student.pte", "student.int8.pte"):
            for image, logits in zip(golden["images"][:4], golden[file], strict=False):
                image.tofile(tmp_path / "picture.raw")
                command = [build / "predict", bundle / file, tmp_path / "picture.raw"]
                said = subprocess.run(command, capture_output=True, text=True, check=True)
                answer = np.array(said.stdout.split(), np.float32)
                np.testing.assert_allclose(answer, logits, atol=1e-4)
    (tmp_path / "picture.raw").write_bytes(b"too short")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "has 9 bytes; expected 768" in refused.stderr


def test_a_moving_average_in_a_loop_of_ones_own() -> None:
    model = torch.nn.Linear(3, 2)
    weights, validated = [], []

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.no_grad():
            model.weight += images.mean()
        weights.append(model.weight.detach().clone())

    names = {
        "model": model,
        "loader": [(torch.ones(2, 3), torch.zeros(2))] * 2,
        "step": step,
        "validate": lambda model: validated.append(model.weight.detach().clone()),
    }
    start = model.weight.detach().clone()
    (block,) = re.findall(r"```python\n([^`]*ExponentialMovingAverage\([^`]*)```", PAGE)
    exec(block, names)
    expected = 0.999 * (0.999 * start + 0.001 * weights[0]) + 0.001 * weights[1]
    torch.testing.assert_close(validated[0], expected)
    assert torch.equal(model.weight, weights[1])
