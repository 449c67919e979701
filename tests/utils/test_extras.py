"""What works without the extras: torch, numpy and what these need, and nothing else installed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import edufast
from edufast.utils.errors import UserError
from edufast.utils.extras import MissingPackageError, needed_for, require, require_all
from tests.test_layers import modules

EXTRA = re.compile(r"needs (.+): pip install 'edufast\[(\w+)\]'")
# Distributions whose name is not what they are imported by.
DISTRIBUTIONS = {
    "NVIDIA DALI": "nvidia-dali-cuda130",
    "PIL": "pillow",
    "nvidia": "nvidia-dali-cuda130",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def distribution(name: str) -> str:
    return DISTRIBUTIONS.get(name, name).lower().replace("_", "-")


def requirements(package: str, extra: str | None = None) -> set[str]:
    """Distributions that ``package`` requires, always or by ``extra``."""
    found = set()
    for line in metadata.requires(package) or ():
        requirement, _, marker = line.partition(";")
        asked = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if (asked and asked[1]) == extra:
            name, other = re.match(r"([\w.-]+)(?:\[(\w+)\])?", requirement).groups()
            found |= requirements(package, other) if name == package else {distribution(name)}
    return found


def of_extras() -> set[str]:
    """Distributions that some extra brings."""
    extras = metadata.metadata("edufast").get_all("Provides-Extra")
    return set().union(*(requirements("edufast", extra) for extra in extras))


def program(code: str, *also: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where the packages of all extras are missing, and ``also`` those."""
    extras = of_extras()
    missing = {
        name if name != "nvidia" else "nvidia.dali"  # torch brings other parts of that
        for name, holders in metadata.packages_distributions().items()
        if extras & {distribution(holder) for holder in holders}
    }
    assert {"pydantic", "rich", "typer", "yaml", "safetensors", "PIL", "nvidia.dali"} <= missing
    hide = f"import sys; sys.modules.update(dict.fromkeys({[*missing, *also]}))\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True)


TRAINS = """
import numpy as np
import torch

import edufast

torch.manual_seed(0)
loss = edufast.ops.kd_loss(torch.randn(4, 6, requires_grad=True), [torch.randn(4, 6)],
                           torch.arange(4))
loss.backward()
for name in edufast.__all__:
    getattr(edufast, name)

from edufast.data import DataSet, Samples
labels = np.arange(40) % 4
images = np.random.default_rng(0).integers(0, 60, (40, 8, 8, 3), dtype=np.uint8)
images[np.arange(40), 2 * labels] += 150
samples = Samples(images, labels)
data = DataSet("rows", ("a", "b", "c", "d"), samples, samples, 8, (0.5,) * 3, (0.2,) * 3)
slices = [range(2), range(2, 4)]
teachers = [edufast.Teacher(edufast.create_model("resnet8", 2), classes=s) for s in slices]
faculty = edufast.Faculty(teachers)
student = edufast.Student(edufast.create_model("resnet8", 4), grades=2, input_size=(3, 8, 8))
curriculum = edufast.Curriculum.graded(slices, epochs=2)
options = edufast.SchoolOptions(checkpoint="checkpoint.pt")
training = edufast.Training(batch_size=8)
school = edufast.School(student, faculty, curriculum, data, training=training, options=options)
print(school.fit()(torch.zeros(1, 3, 8, 8)).shape)
"""


@pytest.mark.parametrize("also", [(), ("triton",)], ids=["", "no triton"])
def test_without_extras_the_python_interface_trains(also, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = program(TRAINS, *also)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "torch.Size([1, 4])\n"
    assert "grade 2/2, epoch 1/1: loss" in result.stderr


def test_without_extras_every_module_is_imported_or_names_the_extra() -> None:
    code = """
import importlib, json
said = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        said[name] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""
    # The scripts beside exported files are read, and not imported.
    scripts = {"edufast.edge.standalone", "edufast.edge.device", "edufast.__main__"}
    names = sorted(set(modules()) - scripts)
    result = program(code.replace("sys.argv[1]", repr(json.dumps(names))))
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    folders = {name.split(".")[1] for name in said}
    assert folders == {"bench", "cli", "edge", "experiments", "models", "student", "utils"}
    for name, line in said.items():
        if not name.startswith("edufast.cli"):  # whose line is told by __main__
            package, extra = EXTRA.search(line).groups()
            assert distribution(package) in requirements("edufast", extra), (name, line)


def test_without_extras_the_command_is_one_line() -> None:
    result = program("from edufast.__main__ import main\nmain()")
    assert result.returncode == 2
    assert result.stderr == (
        "edufast: the command line needs typer: pip install 'edufast[cli]', "
        "or 'edufast[train,export]' to train\n"
    )


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "edufast.export(edufast.create_model('resnet8', 2), 'x.onnx', input_size=(3, 8, 8))",
            "exporting .onnx files needs onnx: pip install 'edufast[export]'",
        ),
        ("edufast.load_dataset('digits')", "'digits' needs scikit-learn: pip install"),
        ("edufast.create_model('timm/resnet18', 2)", "needs timm: pip install 'edufast[timm]'"),
        ("edufast.create_model('hf/vit', 2)", "needs transformers: pip install 'edufast[hf]'"),
    ],
    ids=["export", "digits", "timm", "hf"],
)
def test_without_extras_what_needs_one_says_so_in_its_last_line(code: str, line: str) -> None:
    result = program(f"import edufast\n{code}")
    assert line in result.stderr.splitlines()[-1]


def test_every_package_that_is_imported_is_required_or_in_an_extra() -> None:
    known = requirements("edufast") | of_extras()
    # Triton comes with torch; Liger is measured where somebody has installed it.
    known |= {"edufast", "triton", "liger_kernel", *sys.stdlib_module_names}
    for path in Path(edufast.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                package = name.partition(".")[0]
                assert {package, distribution(package)} & known, (path, name)


def test_all_that_is_missing_is_named_at_once() -> None:
    here = {"cli": ("typer",), "train": ("json", "no_such_1"), "export": ("no_such_2", "no_such_3")}
    with pytest.raises(MissingPackageError) as error:
        require_all("this", here)
    assert str(error.value) == (
        "this needs no_such_1, no_such_2, no_such_3: pip install 'edufast[train,export]'"
    )
    require_all("this", {"cli": ("typer",), "train": ("json",)})


def test_a_missing_package_is_an_import_error_and_a_user_error() -> None:
    with pytest.raises(ImportError), needed_for("this", "train"):
        raise ModuleNotFoundError("No module named 'yaml.x'", name="yaml.x")
    with pytest.raises(MissingPackageError) as error:
        require("this", "train", "json", "edufast_has_no_such_package")
    assert str(error.value) == (
        "this needs edufast_has_no_such_package: pip install 'edufast[train]'"
    )


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("yaml", "train"),
        ("nvidia.dali", "train"),
        ("sklearn", "train"),
        ("onnxscript", "export"),
        ("timm", "timm"),
        ("huggingface_hub", "timm"),
    ],
)
def test_the_extra_that_is_named_brings_the_package(package: str, extra: str) -> None:
    with (
        pytest.raises(MissingPackageError, match=rf"install 'edufast\[{extra}\]'$"),
        needed_for("this", "train"),
    ):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def test_a_module_that_code_of_a_user_lacks_is_named_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_network.py").write_text("\nimport pandas_of_mine.frame\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error, needed_for("this command", "train"):
        import my_network  # noqa: F401
    assert str(error.value) == (
        f"this command needs the module 'pandas_of_mine', which {tmp_path / 'my_network.py'}, "
        "line 2, imports"
    )


def test_a_module_of_this_package_that_is_missing_is_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needed_for("this", "train"):
        import edufast.no_such_module  # noqa: F401
