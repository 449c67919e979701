from __future__ import annotations

from pathlib import Path

import pytest

from edufast.experiments.content_names import text_hash, without_folder


@pytest.mark.parametrize("name", ["teacher2-{}.safetensors", "{}"])
def test_what_is_named_by_its_content_is_the_same_in_any_folder(name):
    name = name.format(text_hash("everything"))
    assert without_folder(Path("/a") / name) == without_folder(Path("/b/c") / name) == Path(name)


@pytest.mark.parametrize("path", ["/a/teacher.safetensors", "/a/teacher0.safetensors", "/a/cache"])
def test_any_other_name_says_nothing_of_the_content(path):
    assert without_folder(Path(path)) == Path(path)


def test_another_content_has_another_name():
    assert text_hash("a") != text_hash("b") and text_hash("a") == text_hash("a")
