from __future__ import annotations

import numpy as np
import pytest

from edufast.data import glyphs as module
from edufast.data import load_dataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def glyphs(cache, monkeypatch):
    """The real data set, rendered once for this file."""
    monkeypatch.setenv("EDUFAST_CACHE", str(cache))
    return load_dataset("glyphs")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A rendering small enough to be done many times, in a cache of its own."""
    monkeypatch.setenv("EDUFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(module, "VAL_PER_CLASS", 1)
    return tmp_path


def test_classes_are_balanced_and_images_all_different(glyphs):
    assert len(glyphs.classes) == len(set(glyphs.classes)) == 60
    assert glyphs.train.images.shape == (6000, 32, 32, 3)
    assert glyphs.train.images.dtype == np.uint8
    assert set(np.bincount(glyphs.train.labels)) == {100}
    assert set(np.bincount(glyphs.val.labels)) == {50}
    images = np.concatenate([glyphs.train.images, glyphs.val.images])
    assert len({image.tobytes() for image in images}) == 9000


def test_every_image_can_be_drawn_alone(glyphs):
    for label, index in [(0, 0), (17, 99), (59, 49)]:
        image = module.render(label, index, split=0)
        assert np.array_equal(image, glyphs.train.images[label * 100 + index])
    assert np.array_equal(module.render(31, 7, split=1), glyphs.val.images[31 * 50 + 7])
    assert not np.array_equal(module.render(31, 7, split=1), module.render(31, 7, split=1, seed=1))


def test_glyphs_are_lighter_than_their_background(glyphs):
    ink = np.percentile(glyphs.train.images, 99, axis=(1, 2))
    texture = np.percentile(glyphs.train.images, 30, axis=(1, 2))
    assert (ink - texture).mean(axis=1).min() > 20


def test_fonts_draw_every_class_and_none_draws_boxes():
    fonts = module._fonts()
    assert len(fonts) >= 10 and not any("LastResort" in font.name for font in fonts)
    for font in fonts:
        masks = {module._mask(character, font).tobytes() for character in module.CLASSES}
        assert len(masks) == 60, font.name  # boxes would all be alike
        assert all(max(mask) == 255 for mask in masks), font.name


def test_the_cache_is_used(tiny, monkeypatch):
    first = module.glyphs().train
    monkeypatch.setattr(module, "_render_all", lambda seed: pytest.fail("rendered again"))
    second = module.glyphs().train
    assert np.array_equal(first.images, second.images)
    assert second.labels.tolist() == sorted([*range(60), *range(60)])


def test_every_seed_has_images_and_a_cache_of_its_own(tiny):
    first, second = module.glyphs(0).train.images, module.glyphs(1).train.images
    assert not (first == second).all(axis=(1, 2, 3)).any()
    assert np.array_equal(second[7 * 2 + 1], module.render(7, 1, split=0, seed=1))
    assert len(list(tiny.glob("*.npz"))) == 2
    assert np.array_equal(module.glyphs(0).train.images, first)


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _forge(path):
    """A well-formed archive with other pixels."""
    with np.load(path) as file:
        np.savez(path, train=file["train"] ^ 1, val=file["val"], digest=file["digest"])


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        _forge,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_text("not an archive"),
        lambda path: np.savez(path, train=np.array([{}], dtype=object)),
    ],
    ids=["bit", "forged", "empty", "truncated", "text", "pickle"],
)
def test_a_damaged_cache_is_rendered_again(tiny, damage):
    first = module.glyphs().train.images
    (path,) = tiny.glob("*.npz")
    good = path.read_bytes()
    damage(path)
    second = module.glyphs().train.images
    assert np.array_equal(first, second)
    with np.load(path) as file:
        assert np.array_equal(file["train"], first)
    assert len(path.read_bytes()) == len(good)


def test_a_changed_style_has_a_cache_of_its_own(tiny, monkeypatch):
    first = module.glyphs().train.images
    monkeypatch.setattr(module, "STYLE", module.Style(noise=0.0))
    second = module.glyphs().train.images
    assert not np.array_equal(first, second)
    assert len(list(tiny.glob("*.npz"))) == 2


def test_a_cache_that_cannot_be_written_is_only_a_warning(tiny, monkeypatch):
    (tiny / "file").write_text("")
    monkeypatch.setenv("EDUFAST_CACHE", str(tiny / "file" / "folder"))
    with pytest.warns(UserWarning, match="could not be cached"):
        images = module.glyphs().train.images
    assert len(images) == 120
