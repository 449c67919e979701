"""An .onnx file ends with its hash, and stays one that others can read."""

import pytest

from edufast.edge.seal import is_damaged, sealed

onnx = pytest.importorskip("onnx")


def small_model():
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(x, 1, [1]) for x in "ab"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    model.metadata_props.add(key="classes", value="[]")
    return model


def test_a_sealed_model_is_the_model_with_one_more_entry():
    model = small_model()
    content = sealed(model.SerializeToString())
    read = onnx.load_model_from_string(content)
    onnx.checker.check_model(read)
    assert read.graph == model.graph and not is_damaged(content)
    entries = {entry.key: entry.value for entry in read.metadata_props}
    assert entries["classes"] == "[]" and len(entries["sha256"]) == 64


def test_every_flipped_bit_is_noticed():
    content = sealed(small_model().SerializeToString())
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            assert is_damaged(bytes(flipped))


@pytest.mark.parametrize("content", [b"", b"x", small_model().SerializeToString()])
def test_what_has_no_hash_was_cut_off_or_goes_on_is_noticed(content):
    assert is_damaged(content)
    for end in range(1, 120):
        assert is_damaged(sealed(content)[:-end])
    assert is_damaged(sealed(content) + b"xx")


def test_what_another_program_changed_is_noticed():
    model = onnx.load_model_from_string(sealed(small_model().SerializeToString()))
    assert not is_damaged(model.SerializeToString())
    model.graph.node[0].op_type = "Neg"
    assert is_damaged(model.SerializeToString())
