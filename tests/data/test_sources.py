"""What a source names: the package's data sets, folders, and readers of a user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edufast.data import DATA_SETS, absolute_source, load_dataset, register_data_set, runs_code
from edufast.data.sources import parsed, read
from edufast.utils.errors import UserError
from tests.data.folders import make_images, make_pictures
from tests.data.packed import samples, write_tar

READERS = """
import numpy as np
from edufast.data import Samples, Splits

def split(count, classes=2):
    images = np.zeros((count, 8, 8, 3), dtype=np.uint8)
    return Samples(images, np.arange(count) % classes)

def pets(seed):
    return Splits(("cat", f"dog {seed}"), split(6), split(4))

def listed(path, *, seed):
    return Splits(tuple(path.read_text().split()), split(6), split(4))

def one_class(seed):
    return Splits(("cat",), split(6, 1), split(4, 1))

def numbered(seed):
    return Splits((0, 1), split(6), split(4))

def outside(seed):
    return Splits(("cat", "dog"), split(6), split(4, 3))

def gap(seed):
    return Splits(("cat", "dog", "cow"), split(6), split(4))

def arrays(seed):
    return Splits(("cat", "dog"), split(6).images, split(4))

def floats(seed):
    return Splits(("cat", "dog"), split(6), Samples(np.zeros((4, 8, 8, 3)), np.arange(4)))

def pair(seed):
    return split(6), split(4)

def seedless():
    return pets(0)
"""


@pytest.fixture(autouse=True)
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(DATA_SETS, "_entries", dict(DATA_SETS._entries))


def told(source: str) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_reader_is_registered_by_a_decorator(tmp_path):
    @register_data_set("mine")
    def mine(path: Path, *, seed: int):
        data = read("digits", seed)
        return data._replace(classes=tuple(f"{path.name}{c}" for c in data.classes))

    assert load_dataset(f"mine:{tmp_path}").classes[3] == f"{tmp_path.name}3"
    with pytest.raises(UserError, match="data source 'cifar10' is already registered"):
        register_data_set("cifar10")(mine)


def test_a_reader_is_found_by_its_import_path_and_its_entry_point(mypackage, tmp_path):
    mypackage.write(data=READERS)
    mypackage.declare("edufast.data_sets", zoo="mypackage.data:listed")
    assert load_dataset("mypackage.data:pets", seed=4).classes == ("cat", "dog 4")
    (tmp_path / "list").write_text("cow pig")
    for reader in ("mypackage.data:listed", "zoo"):
        source = f"{reader}:{tmp_path / 'list'}"
        data = load_dataset(source)
        assert data.classes == ("cow", "pig") and data.name == source


def test_names_come_before_folders_and_folders_before_import_paths(
    mypackage, tmp_path, monkeypatch
):
    mypackage.write(data=READERS)
    mypackage.declare("edufast.data_sets", zoo="mypackage.data:pets")
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "zoo", "mypackage.data:pets", "own"):
        for label in ("x", "y"):
            make_images(tmp_path / name / label, 2)
    assert load_dataset("digits").classes[0] == "0"
    assert load_dataset("zoo").classes[0] == "cat"
    assert load_dataset("own", image_size=8).classes == ("x", "y")
    assert not runs_code("mypackage.data:pets")
    assert load_dataset("mypackage.data:pets", image_size=8).classes == ("x", "y")


def test_a_source_can_be_named_from_another_folder(mypackage, tmp_path, monkeypatch):
    mypackage.declare("edufast.data_sets", zoo="mypackage.data:pets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    here = Path.cwd()
    for source, expected in {
        "digits": "digits",
        "own": str(here / "own"),
        "cifar10:data": f"cifar10:{here / 'data'}",
        "zoo:data/list": f"zoo:{here / 'data' / 'list'}",
        "mypackage.data:pets": "mypackage.data:pets",
        "mypackage.data:listed:data": f"mypackage.data:listed:{here / 'data'}",
        "nowhere/at/all": "nowhere/at/all",
    }.items():
        assert absolute_source(source) == expected
        assert absolute_source(expected) == expected


def test_a_path_may_begin_with_a_tilde(tmp_path, monkeypatch):
    """Shells leave that of --set data.source=~/own as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own").mkdir()
    assert parsed("~/own") == (None, tmp_path / "own")
    assert parsed("arrays:~/own") == ("arrays", tmp_path / "own")
    assert absolute_source("~/own") == str(tmp_path / "own")


def test_only_an_import_path_runs_code_that_nothing_else_has_named(mypackage, tmp_path):
    mypackage.declare("edufast.data_sets", zoo="mypackage.data:pets")
    assert runs_code("mypackage.data:pets") and runs_code(f"mypackage.data:pets:{tmp_path}")
    for source in ("digits", "cifar10:data", "zoo", "zoo:data", str(tmp_path), "nowhere", "a/b:c"):
        assert not runs_code(source)


def test_unknown_sources_say_what_is_near_and_what_there_is():
    assert "data source is 'cifar1000'; did you mean 'cifar100' or 'cifar10'?" in told("cifar1000")
    everything = (
        "digits, glyphs, arrays, manifest, parquet, hf, webdataset, caltech256, cifar10, cifar100, "
        "food101, tiny_imagenet"
    )
    assert f"data source is '/none'; expected one of {everything}; or" in told("/none")
    assert told("/none").endswith(
        "; or an existing folder, a .csv, .parquet, .tar or .tar.gz file or an import path"
    )
    assert "there is no module 'nowhere'" in told("nowhere:f")


def test_a_path_is_asked_for_where_one_is_read_and_only_there(mypackage, tmp_path):
    mypackage.write(data=READERS)
    assert told("cifar100") == (
        "data source 'cifar100': expected cifar100:<path>, what is at "
        "https://www.cs.toronto.edu/~kriz/cifar.html, unpacked"
    )
    assert "'nowhere' does not exist; expected a path, what is at http" in told("cifar100:nowhere")
    assert told(f"digits:{tmp_path}").endswith("digits reads no path; expected 'digits'")
    assert told("mypackage.data:listed").endswith("expected mypackage.data:listed:<path>")
    assert "'/none' does not exist; expected a path" in told("mypackage.data:listed:/none")
    assert "mypackage.data:pets reads no path" in told(f"mypackage.data:pets:{tmp_path}")


def test_what_a_reader_must_return_is_checked(mypackage):
    package = mypackage.write(data=READERS)
    source = "data source 'mypackage.data"
    for reader, message in {
        "one_class": ": classes is ('cat',); expected the names of at least 2",
        "numbered": ": classes is (0, 1); expected the names of at least 2",
        "outside": ": val has label 2; expected 0 to 1, positions in classes",
        "gap": ": class 'cow' has no training image",
        "arrays": ": train has type ndarray; expected Samples",
        "pair": " returned a tuple; expected a Splits or a DataSet",
        "seedless": ": option is 'seed'; expected none",
        "np": " is a module; expected a class or function that makes a Splits or a DataSet",
    }.items():
        assert told(f"mypackage.data:{reader}").startswith(f"{source}:{reader}'{message}")
    message = told("mypackage.data:floats")
    assert "ValueError: images: expected a uint8 array (N, H, W, 3), got float64" in message
    assert f"({package / 'data.py'}, line " in message
    assert "did you mean 'pets'" in told("mypackage.data:pet")


def test_the_data_sets_of_the_package_take_a_seed():
    assert np.array_equal(read("digits", 3).val.labels, load_dataset("digits", seed=3).val.labels)


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        (["train-0.tar", "test-0.tar"], "webdataset"),
        (["data/train-00000-of-00001.parquet", "README.md"], "parquet"),
        (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], "hf"),
        (["cat/0.png", "dog/0.png", "state.json"], None),
        (["train/cat/0.png", "test/cat/1.png", "archive.tar"], None),
        (["dataset_dict.json", "train/state.json"], "hf"),
        (["cat/0.png", "dog/0.png", "about.parquet"], None),
        (["train/cat/0.png", "train/metadata.parquet", "val/cat/1.png"], None),
        ([], None),
    ],
)
def test_what_is_in_a_folder_is_recognised(files, reader, tmp_path):
    for name in files:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set").mkdir(exist_ok=True)
    assert parsed(str(tmp_path / "set")) == (reader, tmp_path / "set")


def test_a_file_is_recognised_by_its_suffix(tmp_path, monkeypatch):
    for name, reader in (
        ("a.CSV", "manifest"),
        ("a.parquet", "parquet"),
        ("a.tar", "webdataset"),
        ("a.TGZ", "webdataset"),
    ):
        assert parsed(name) == (reader, Path(name)), "whether it is there or not"
        (tmp_path / f"b:{name}").touch()
        assert parsed(f"{tmp_path}/b:{name}") == (reader, tmp_path / f"b:{name}")
    assert parsed("mypackage.data:listed:list.csv")[0] == "mypackage.data:listed"
    assert told("gone.csv") == (
        "data source 'gone.csv': 'gone.csv' does not exist; expected a path"
    )
    monkeypatch.chdir(tmp_path)
    assert absolute_source("x.tar") == f"webdataset:{tmp_path}/x.tar"
    make_pictures(tmp_path / "y" / "cat", 2)
    assert absolute_source("y") == f"{tmp_path}/y"


def test_a_set_that_is_recognised_is_the_same_as_by_its_reader(tmp_path, cache):
    write_tar(tmp_path / "set" / "0.tar", samples(12))
    recognised, named = (
        load_dataset(source, image_size=8)
        for source in (f"{tmp_path}/set", f"webdataset:{tmp_path}/set")
    )
    assert recognised.classes == named.classes and recognised.train.images == named.train.images
