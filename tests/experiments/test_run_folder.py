"""A run's folder: one config each, and what it says so far."""

import pytest
import yaml

from edufast.experiments.recipe import parse_recipe
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.utils.errors import UserError
from tests.experiments.logs import complete, write

RECIPE = {
    "name": "r",
    "data": {"source": "digits"},
    "student": {"model": "resnet8"},
    "curriculum": {"grades": [{"epochs": 1, "classes": "0-9"}]},
}


def config(**changes):
    recipe = parse_recipe(RECIPE | changes.pop("recipe", {}))
    return RunConfig(**{"methods": ("scratch",), "seeds": (0, 1), "recipe": recipe} | changes)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim(config())
    return folder


def test_a_config_is_read_as_it_was_written(tmp_path):
    written = config(equal="time", seconds=3.5, teachers=tmp_path, export=False)
    RunFolder(tmp_path).claim(written)
    assert RunFolder(tmp_path).read_config() == written


def test_a_folder_is_claimed_once(folder):
    before = folder.config_file.stat().st_mtime_ns
    assert folder.holds(config())
    folder.claim(config())
    assert folder.config_file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "other", [{"seeds": (0,)}, {"device": "cuda"}, {"recipe": {"training": {"lr": 0.2}}}]
)
@pytest.mark.parametrize("left", ["teachers/teacher0.safetensors", "checkpoints/scratch-0.pt", ""])
def test_another_config_is_refused_and_changes_nothing(folder, other, left):
    if left:
        (folder.path / left).parent.mkdir()
        (folder.path / left).touch()
    else:
        write(folder.path, complete())
    before = folder.config_file.read_bytes()
    with pytest.raises(UserError, match="holds a run of another recipe or with other options"):
        folder.claim(config(**other))
    assert folder.config_file.read_bytes() == before


def test_a_run_that_left_nothing_makes_room_for_another(folder):
    """A picture that cannot be decoded ends the first one; the next leaves it out."""
    folder.metrics.write_text('{"event": "step"}\n')
    folder.claim(config(seeds=(5,)))
    assert folder.read_config().seeds == (5,) and not folder.metrics.exists()


def test_a_config_may_be_written_in_another_way(folder):
    content = yaml.safe_load(folder.config_file.read_text())
    del content["cache"], content["recipe"]["baselines"]  # as in a version without them
    folder.config_file.write_text(yaml.safe_dump(content, sort_keys=True))
    assert folder.holds(config())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seeds: [", b"- 1", b"seeds: [0]"])
def test_a_damaged_config_is_told_in_one_line(folder, content):
    folder.config_file.write_bytes(content)
    for act in (folder.read_config, lambda: folder.holds(config())):
        with pytest.raises(UserError, match=r"config\.yaml: ") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: .*config\.yaml does not exist"):
        RunFolder(tmp_path / "nowhere").read_config()
    assert not RunFolder(tmp_path / "nowhere").holds(config())


def test_the_log_is_empty_before_anything_happened(tmp_path):
    log = RunFolder(tmp_path).log()
    assert log.run is None and log.results == {} and log.unfinished()
    assert RunFolder(write(tmp_path, complete())).log().results


def test_everything_has_a_place_of_its_own(tmp_path):
    folder = RunFolder(tmp_path)
    paths = [folder.config_file, folder.metrics, folder.student, folder.diverged]
    paths += [folder.teacher(k) for k in (0, 1)]
    paths += [folder.checkpoint(name) for name in ("teacher0", "kd-0")]
    assert len(set(paths)) == 8 and all(path.is_relative_to(tmp_path) for path in paths)
