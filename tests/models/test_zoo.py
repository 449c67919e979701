from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edufast.models.zoo import MODELS, ResNet, create_model, list_models, register_model
from edufast.utils.errors import UserError
from tests.conftest import UserPackage

# Parameters with 100 classes, as the tables of RepDistiller and mdistiller have them.
KNOWN = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_2": 2_255_156,
    "resnet50_cifar": 23_705_252,
    "mobilenetv2_half": 812_836 - 288,  # a 1x1 convolution of 16x16 and its norm
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", KNOWN)
def test_parameter_counts_of_the_literature(name: str) -> None:
    assert parameters(create_model(name, 100)) == KNOWN[name]


def test_resnet20_for_ten_classes_has_0_27_million() -> None:
    assert round(parameters(create_model("resnet20", 10)) / 1e6, 2) == 0.27


# The smallest promised size, an odd one that is no multiple of the strides, and the usual one.
@pytest.mark.parametrize("size", [8, 19, 32])
@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_2"])
def test_any_image_size(name: str, size: int) -> None:
    assert create_model(name, 7)(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", list_models())
def test_every_listed_model_builds(name: str) -> None:
    *_, last = (m for m in create_model(name, 5).modules() if isinstance(m, nn.Linear))
    assert last.out_features == 5


@pytest.mark.parametrize(("name", "places"), [("resnet50_cifar", 4), ("mobilenetv2_half", 2)])
def test_variants_for_32_pixels_keep_their_resolution(name: str, places: int) -> None:
    shapes = []
    model = create_model(name, 5).eval()
    last = model.layer4 if name == "resnet50_cifar" else model.features
    last.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[2:])))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(places, places)]


def test_convolutions_are_kaiming_normal_by_fan_out() -> None:
    conv = create_model("resnet8x4", 5).layer3[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


def test_wide_resnet_projects_the_activated_input() -> None:
    block = create_model("wrn_16_2", 5).eval().layer1[0]
    x = -torch.ones(1, 16, 8, 8)  # all of it removed by norm and ReLU
    block.shortcut.weight.data.fill_(1.0)
    block.conv2.weight.data.zero_()
    assert torch.equal(block(x), torch.zeros(1, 32, 8, 8))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_libraries_without_any_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name.split("/")[0])
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail())
    assert create_model(name, 11).fc.out_features == 11


def test_hugging_face_classifiers_give_logits() -> None:
    pytest.importorskip("transformers")
    model = create_model("hf/resnet", 7).eval()
    images = torch.randn(2, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model.model(images).logits)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet21", "did you mean .*resnet20"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("timm/resnet19", "timm/resnet18"),
        ("timm/hf-hub:someone/model", "model is 'timm/hf-hub:someone/model'; exp"),  # no download
        ("torchvision/", "model is 'torchvision/'; .*one of torchvision/alexnet"),
        ("hf/vt", "did you mean .*'hf/vit'"),
        ("zzz", "model is 'zzz'; expected one of resnet8, .*; or torchvision/<name>, timm/<name>"),
        ("", "model is ''; expected one of resnet8"),
        ("hf/ResNet", "did you mean 'hf/resnet'"),
        ("hf/someone/model", "its configuration is not on this machine; .*weights: pretrained"),
    ],
)
def test_unknown_names_list_near_matches(name: str, hint: str) -> None:
    if "/" in name:
        pytest.importorskip(name.split("/")[0].replace("hf", "transformers"))
    with pytest.raises(UserError, match=hint):
        create_model(name, 10)


@pytest.mark.parametrize(
    "config",
    [
        "1",
        "{",
        '{"model_type": "resnet", "hidden_act": [1, 2]}',
        '{"model_type": "resnet", "hidden_sizes": true}',
        '{"model_type": "resnet", "depths": []}',
        '{"model_type": "vit", "patch_size": 0}',
        '{"model_type": "no such type"}',
    ],
)
def test_damaged_configurations_of_a_repository_are_one_line(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    Path("someone", "model").mkdir(parents=True)
    Path("someone", "model", "config.json").write_text(config)
    with pytest.raises(
        UserError, match="'hf/someone/model': its configuration does not make"
    ) as caught:
        create_model("hf/someone/model", 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 2.0, "10", None, True, 10**19])
def test_number_of_classes_is_checked(count: object) -> None:
    for name in ("resnet8", "timm/resnet18"):
        with pytest.raises(UserError, match=r"^num_classes is .*; expected .*$"):
            create_model(name, count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "name", "extra"),
    [
        ("timm", "timm/resnet18", "timm"),
        ("torchvision", "torchvision/resnet18", "train"),
        ("transformers", "hf/resnet", "hf"),
        ("transformers", "hf/someone/model", "hf"),
    ],
)
def test_missing_library_says_what_to_install(
    library: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}: pip install 'edufast\[{extra}\]'"):
        create_model(name, 10)


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_depth_must_fit_the_blocks(depth: int) -> None:
    with pytest.raises(ValueError, match="depth"):
        ResNet(depth, 10)


# --- users' own ------------------------------------------------------------------------------

NETS = """
from torch import nn

def tiny(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))

class Linear(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(12, num_classes)

def weights(num_classes):
    return dict(nn.Linear(2, num_classes).state_dict())

def failing(num_classes):
    return nn.Linear(2, num_classes).weight.view(7, 7)

def of_nothing():
    return nn.Identity()
"""


@pytest.fixture
def registrations_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))


def told(name: str) -> str:
    with pytest.raises(UserError) as caught:
        create_model(name, 10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_a_model_is_registered_by_a_decorator() -> None:
    @register_model("mine")
    def mine(num_classes: int) -> nn.Module:
        return nn.Linear(3, num_classes)

    assert create_model("mine", 7).out_features == 7 and list_models()[-1] == "mine"
    with pytest.raises(UserError, match="model 'resnet20' is already registered"):
        register_model("resnet20")(mine)


def test_a_model_is_found_by_its_import_path_and_its_entry_point(mypackage: UserPackage) -> None:
    mypackage.write(nets=NETS)
    mypackage.declare("edufast.models", small="mypackage.nets:tiny")
    for name in ("mypackage.nets:tiny", "small"):
        assert create_model(name, 7)(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert create_model("mypackage.nets:Linear", 7).out_features == 7  # a class


def test_what_is_no_model_is_told(mypackage: UserPackage) -> None:
    package = mypackage.write(nets=NETS)
    assert told("mypackage.nets:weights") == (
        "model 'mypackage.nets:weights' returned a dict; expected a Module"
    )
    assert "RuntimeError: shape '[7, 7]' is invalid" in told("mypackage.nets:failing")
    assert f"({package / 'nets.py'}, line 16)" in told("mypackage.nets:failing")
    assert "too many positional arguments; it takes ()" in told("mypackage.nets:of_nothing")
    assert "model 'mypackage.nets:nn' is a module; expected a class or" in told("mypackage.nets:nn")
    assert "is the class Path; expected" in told("pathlib:Path")
    assert "did you mean 'tiny'" in told("mypackage.nets:tinny")
    assert "there is no module 'mypackage.net'" in told("mypackage.net:tiny")
