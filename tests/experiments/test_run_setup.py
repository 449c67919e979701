"""What does not fit is told before anything is trained or written."""

import shutil
from dataclasses import replace

import pytest

from edufast.experiments.run_setup import Setup
from edufast.utils.errors import UserError
from tests.experiments.small import QUIET, small_config, small_setup
from tests.tiny import tiny_data


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("scratch",), {"equal": "time"}, "equal time: expected education among the methods"),
        (("kd",), {"device": "meta"}, "device is 'meta'; expected cpu, cuda or cuda:N"),
        (("kd",), {"recipe": {"student": {"model": "resnet9"}}}, "model is 'resnet9'; did you"),
        (
            ("education",),
            {"recipe": {"student": {"model": "resnet8", "cuts": ["x"]}}},
            "cannot cut after 'x'",
        ),
        (
            ("kd",),
            {"recipe": {"teacher_image_sizes": [32]}},
            r"teacher_image_sizes: \[32\]; expected at most 16, the size of the images",
        ),
        (
            ("education",),
            {"recipe": {"curriculum": {"epochs": 3, "keep_rows": True}}},
            "small: keep_rows is True, but rows of 256 features cannot become rows of 64 in",
        ),
        (
            (),
            {"recipe": {"teachers": [{"model": "resnet9"}], "curriculum": {
                "grades": [{"epochs": 1, "classes": "0-5"}]}}},
            "model is 'resnet9'; did you mean",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_leaves_no_folder(tmp_path, methods, changes, message):
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", *methods, **changes)
    assert not (tmp_path / "run").exists()


HEAD = {"student": {"model": "resnet8", "head": "pool_first"}, "data": {"source": "digits"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batch_size": 1}},
        {"training": {"batch_size": 16}, "curriculum": {"epochs": 3, "samples": 1}},
    ],
)
def test_a_batch_of_one_that_cannot_be_normalised_is_refused(tmp_path, changes):
    message = "a batch has 1 image, from which resnet8 in grade 1 cannot learn: Expected more than"
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", "education", recipe=HEAD | changes)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_is_taken_where_it_can_be_normalised(tmp_path):
    small_setup(tmp_path / "run", "scratch", recipe={"training": {"batch_size": 1}})


def test_a_teacher_that_cannot_learn_from_a_batch_of_one_is_named(tmp_path):
    networks = tmp_path / "one_value_networks.py"
    networks.write_text(
        "from torch import nn\n"
        "def pooled(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4),"
        " nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    model = "one_value_networks:pooled"
    recipe = {
        "teachers": [{"model": model, "classes": c} for c in ("0-2", "3-5")],
        "teaching": {"batch_size": 1},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(UserError, match=f"from which {model} of teachers.0 cannot learn"):
            small_setup(tmp_path / "run", "education", recipe=recipe)


def test_folders_of_teachers_and_logits_are_looked_at_first(tmp_path):
    (tmp_path / "file").touch()
    for name in ("teachers", "cache"):
        with pytest.raises(UserError, match=f"^{name}: .*file is not a folder; expected one, or a"):
            small_setup(tmp_path / "run", "education", **{name: tmp_path / "file"})
    within = tmp_path / "earlier" / "teachers"
    within.mkdir(parents=True)
    (within / "teacher0.safetensors").touch()
    with pytest.raises(UserError, match=r"is a folder within a run; expected the run, .*earlier$"):
        small_setup(tmp_path / "run", "education", teachers=within)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "backend 'cuda' runs on cuda; the tensors are on cpu"),
        ("quick", "backend is 'quick'; expected one of"),
    ],
)
def test_a_backend_that_does_not_run_there_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("EDUFAST_BACKEND", name)
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", "scratch")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"training": {"augment": {"replay": 10**12}}}, "1000000000000 views of each of"),
        ({"algorithm": {"name": "fitnet"}}, "--cache: fitnet reads the teachers' features"),
        (
            {"training": {"augment": {"random_resized_crop": [0.5, 1.0]}}},
            "random_resized_crop|augment.replay",
        ),
        (
            {
                "teachers": [{"model": "resnet8"}],
                "curriculum": {"grades": [{"epochs": 1, "teachers": [0], "target": "full"}]},
                "training": {"mix": "mixup"},
            },
            "--cache: training.mix is 'mixup'; stored logits are of images that are not altered",
        ),
    ],
)
def test_what_cannot_be_cached_leaves_no_folder(tmp_path, recipe, message):
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", "education", recipe=recipe, cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_student_without_cuts_needs_none_that_fit(tmp_path):
    cut = {"student": {"model": "resnet8", "cuts": ["x"]}}
    small_setup(tmp_path / "run", "scratch", recipe=cut)
    assert not (tmp_path / "run").exists()


def test_the_log_begins_once_with_what_the_run_is_about(tmp_path):
    for _ in range(2):
        setup = small_setup(tmp_path / "run", "scratch", equal="flops")
        with setup.opened():
            pass
    assert len(setup.folder.metrics.read_text().splitlines()) == 1
    about = setup.folder.log().run
    assert about is not None and (about.name, about.equal) == ("small", "flops")
    assert (about.dataset, about.num_classes) == ("tiny", 6)
    assert about.slices == [[0, 1, 2], [3, 4, 5]]
    assert about.grades is not None and [grade.classes for grade in about.grades] == [3, 6]


def test_a_config_that_was_edited_after_the_run_began_is_refused_by_key(tmp_path):
    with small_setup(tmp_path / "run", "scratch").opened():
        pass
    config = tmp_path / "run" / "config.yaml"
    config.write_text(
        config.read_text().replace("  lr: 0.1", "  lr: 0.3").replace("- 0\n", "- 1\n", 1)
    )
    edited = {"recipe": {"training": {"batch_size": 16, "lr": 0.3, "augment": {
        "pad": 1, "flip": False}}}, "seeds": (1,)}  # fmt: skip
    message = (
        r"config\.yaml was changed since the run began: seeds\.0 was 0, is 1; "
        r"recipe\.training\.lr was 0\.1, is 0\.3; change it back"
    )
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", "scratch", **edited)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_teacher_is_that_of_the_recipe_of_another_run_or_its_own(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.touch()
    teachers = [
        {"model": "resnet8", "classes": "0-2", "weights": str(weights)},
        {"model": "resnet8", "classes": "3-5"},
    ]
    own = small_setup(tmp_path / "own", "kd", recipe={"teachers": teachers})
    assert own.teacher_file(0) == weights
    assert own.teacher_file(1) == tmp_path / "own" / "teachers" / "teacher1.safetensors"
    assert own.teacher_file(2).name == "teacher2.safetensors", "kd asks one of all classes"
    other = small_setup(tmp_path / "run", "kd", teachers=tmp_path / "own")
    assert other.teacher_file(1) == own.teacher_file(1)


def test_a_run_whose_folder_was_removed_writes_nothing_into_the_next_one(tmp_path):
    first, second = (small_setup(tmp_path / "run", "scratch") for _ in range(2))
    with first.opened():
        shutil.rmtree(tmp_path / "run")
        with second.opened():
            before = second.folder.metrics.read_bytes()
            with pytest.raises(UserError, match="was removed while this process was in it"):
                first.event_log.write(first._description())
            assert second.folder.metrics.read_bytes() == before


def test_teachers_of_an_unfinished_run_must_be_trained(tmp_path):
    """Else they would be trained by this recipe, and the other run would take them for its own."""
    theirs = tmp_path / "theirs"
    with small_setup(theirs).opened():
        pass
    message = "theirs is not finished and has not trained teacher 0; continue it first: edufast res"
    with pytest.raises(UserError, match=message):
        small_setup(tmp_path / "run", "education", teachers=theirs)
    small_setup(tmp_path / "run", "scratch", teachers=theirs)  # asks none
    (theirs / "teachers").mkdir()
    for k in range(2):
        (theirs / "teachers" / f"teacher{k}.safetensors").touch()
    small_setup(tmp_path / "run", "education", teachers=theirs)


def test_a_class_that_was_renamed_since_the_run_began_is_told(tmp_path):
    config, data = small_config("scratch"), tiny_data()
    with Setup(config, tmp_path, QUIET, lambda section: data).opened():
        pass
    renamed = replace(data, classes=("c1", "c0", *data.classes[2:]))
    with pytest.raises(UserError, match="learned 'c0' as class 0, which is 'c1' in tiny now"):
        Setup(config, tmp_path, QUIET, lambda section: renamed)


def test_a_cache_that_cannot_be_made_is_noticed_before_teachers_are_trained(tmp_path):
    (tmp_path / "file").touch()
    setup = small_setup(tmp_path / "run", "education", cache=tmp_path / "file" / "cache")
    with pytest.raises(OSError, match="file"), setup.opened():
        pass


def test_a_place_where_no_teachers_can_be_kept_is_told_before_they_are_trained(tmp_path):
    (tmp_path / "file").touch()
    setup = small_setup(tmp_path / "run", "education", teachers=tmp_path / "file" / "teachers")
    with pytest.raises(NotADirectoryError, match="file"), setup.opened():
        pytest.fail("trains them")
