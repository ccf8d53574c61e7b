"""Mistakes in a description are told in a sentence, when the network is made."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import fx, nn

from qatlab.errors import ConfigError
from qatlab.models import LayerGraph
from qatlab.models.graph_layers import TYPES

FC = {"type": "linear", "channels": 10}
CONV = {"type": "conv", "channels": 4, "kernel": 3}


def told(layers: Any, **graph: Any) -> str:
    with pytest.raises(ConfigError) as error:
        LayerGraph(**{"input_shape": [2, 6, 6], "layers": layers, **graph})
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (5, "=5 is wrong. Accepted: a mapping that has a type."),
        ({}, ".type is missing. Accepted: conv, deconv, linear, "),
        ({"type": "conf"}, ".type=conf is wrong. Did you mean 'conv'? Accepted: conv, deconv"),
        ({"type": None}, ".type=null is wrong. Accepted: conv, "),
        ({**CONV, "chanels": 3}, ".chanels is unknown. Did you mean 'channels'? Accepted in "),
        ({**CONV, "at": 3}, ".at is unknown. Accepted in model.layers.layer: channels, kernel, "),
        ({**CONV, "inptu": "image"}, ".inptu is unknown. Did you mean 'input'? Accepted in model"),
        ({"type": "conv", "channels": 3}, ".kernel is missing, which type=conv needs."),
        ({**CONV, "channels": 0}, ".channels=0 is wrong. Accepted: a whole number of at least 1."),
        ({**CONV, "channels": 2.0}, ".channels=2.0 is wrong. Accepted: a whole number of at least"),
        ({**CONV, "bias": 1}, ".bias=1 is wrong. Accepted: true or false."),
        ({**CONV, "kernel": [3, 3, 3]}, ".kernel=[3, 3, 3] is wrong. Accepted: a whole number"),
        ({**CONV, "stride": 0}, ".stride=0 is wrong. Accepted: a whole number of at least 1, or"),
        ({**CONV, "dilation": True}, ".dilation=true is wrong. Accepted: a whole number of at lea"),
        ({**CONV, "subsample": "2"}, ".subsample='2' is wrong. Accepted: a whole number of at lea"),
        ({**CONV, "padding": [1, 1, 1]}, ".padding=[1, 1, 1] is wrong. Accepted: a whole number "),
        ({**CONV, "padding": -1}, ".padding=-1 is wrong. Accepted: a whole number of at least 0,"),
        ({**CONV, "kernel": 9}, ".kernel=9 does not fit: it covers 9 x 9, and its input is 2"),
        ({**CONV, "kernel": [7, 3]}, ".kernel=[7, 3] does not fit: it covers 7 x 3"),
        ({**CONV, "dilation": 3}, ".kernel=3 does not fit: it covers 7 x 7"),
        ({**CONV, "groups": 4}, ".groups=4 is wrong. Accepted: a divisor of 2 channels of the"),
        ({**CONV, "groups": 2, "mapping": ["1010", "1111"]}, ".mapping cannot be combined with gr"),
        ({**CONV, "mapping": ["101", "110"]}, ".mapping=['101', '110'] is wrong. Accepted: 2"),
        ({**CONV, "mapping": [1010, 1111]}, ".mapping=[1010, 1111] is wrong. Accepted: 2 text"),
        ({**CONV, "mapping": ["1210", "1111"]}, ".mapping=['1210', '1111'] is wrong."),
        ({**CONV, "mapping": ["1010"]}, ".mapping=['1010'] is wrong. Accepted: 2 texts in quotes"),
        ({**CONV, "weight_init": {"type": "hee"}}, ".weight_init.type=hee is wrong. Did you"),
        ({**CONV, "weight_init": {"type": "constant"}}, ".weight_init.value is missing, which"),
        ({**CONV, "weight_init": {"type": "he", "norm": "in"}}, ".weight_init.norm=in is wrong."),
        ({**CONV, "bias_init": {"type": "normal", "std": -1}}, ".bias_init.std=-1 is wrong."),
        ({**CONV, "bias_init": {"type": "uniform", "low": 2}}, ".bias_init: low=2 is above high=1"),
        ({**CONV, "bias_init": {"type": "he"}}, ".bias_init.type=he is wrong. Accepted: con"),
        ({**CONV, "bias": False, "bias_init": {"type": "normal"}}, ".bias_init cannot be combined"),
        ({**CONV, "type": "deconv", "padding": 5}, ".padding=5 is wrong. Accepted: less, as t"),
        ({**FC, "drop_connect": 0.0}, ".drop_connect=0.0 is wrong. Accepted: the probability that"),
        ({"type": "max_pool", "kernel": 7}, ".kernel=7 does not fit: it covers 7 x 7"),
        ({"type": "max_pool", "kernel": 2, "padding": 2}, ".padding=2 is wrong. Accepted: les"),
        ({"type": "avg_pool", "kernel": 2, "mapping": ["10", "00"]}, ".mapping=['10', '00'] i"),
        ({"type": "avg_pool", "kernel": 2, "mapping": []}, ".mapping=[] is wrong. Accepted: 2"),
        ({"type": "max_unpool", "pool": "layr"}, ".pool=layr is wrong. Accepted: a max_pool a"),
        ({"type": "fractional_max_pool", "ratio": 0.5}, ".ratio=0.5 is wrong. Accepted: a number"),
        ({"type": "fractional_max_pool", "ratio": 7}, ".ratio=7 is wrong. Accepted: less, as its"),
        ({"type": "batch_norm", "momentum": 1.5}, ".momentum=1.5 is wrong. Accepted: a number fro"),
        ({"type": "batch_norm", "eps": -1e-5}, ".eps=-1e-05 is wrong. Accepted: a number of at"),
        ({"type": "batch_norm", "eps": "small"}, ".eps=small is wrong. Accepted: a number"),
        ({"type": "lrn", "size": 0}, ".size=0 is wrong. Accepted: a whole number of at least 1"),
        ({"type": "relu", "clip": 0}, ".clip=0 is wrong. Accepted: a number above 0, or null"),
        ({"type": "saturation", "threshold": 0}, ".threshold=0 is wrong. Accepted: a number above"),
        ({"type": "softmax", "group_size": 3}, ".group_size=3 is wrong. Accepted: 0 or a divisor"),
        ({"type": "dropout", "p": 1.0}, ".p=1.0 is wrong. Accepted: a probability in [0, 1)"),
        ({"type": "elementwise"}, ".operation is missing, which type=elementwise needs."),
        ({"type": "elementwise", "operation": "summ"}, ".operation=summ is wrong. Did you mea"),
        ({"type": "elementwise", "operation": "max", "weights": [1]}, ".weights=[1] is wrong."),
        ({"type": "elementwise", "operation": "abs_sum", "shifts": [1]}, ".shifts=[1] is wrong."),
        ({"type": "elementwise", "operation": "sum", "weights": [1, 2]}, ".weights=[1, 2] is"),
        ({"type": "elementwise", "operation": "sum", "shifts": [[1]]}, ".shifts=[1] is wrong."),
        ({"type": "scale", "factor": [1.0, 2.0, 3.0]}, ".factor=[1.0, 2.0, 3.0] is wrong. Acc"),
        ({"type": "scale", "factor": [1.0, "a"]}, ".factor=[1.0, 'a'] is wrong. Accepted: 2 n"),
        ({"type": "normalize", "norm": "l3"}, ".norm=l3 is wrong. Accepted: l1, l2."),
        ({"type": "threshold", "operation": "to_zero", "max_value": 2}, ".max_value=2 is wrong."),
        ({"type": "identity", "input": ["image", "image"]}, ".input has several; identity take"),
        ({"type": "padding", "top": -3, "bottom": -3}, " cuts all off: its input is 2 x 6 x 6."),
        ({"type": "padding", "left": 0.5}, ".left=0.5 is wrong. Accepted: a whole number."),
        ({"type": "resize", "height": 3}, ".width is missing, which type=resize needs."),
        ({"type": "resize", "height": 3, "width": 0}, ".width=0 is wrong. Accepted: a whole n"),
        ({"type": "resize", "height": 3, "width": 3, "mode": "cubic"}, ".mode=cubic is wrong."),
        ({"type": "reshape", "dims": [2, 6]}, ".dims=[2, 6] is wrong. Accepted: [C, H, W] of 72"),
        ({"type": "reshape", "dims": [-1, -1, 2]}, ".dims=[-1, -1, 2] is wrong. Accepted: [C, H,"),
        ({"type": "reshape", "dims": [-1, 5, 2]}, ".dims=[-1, 5, 2] is wrong. Accepted: [C, H, W]"),
        ({"type": "reshape", "dims": [2, 6, 7]}, ".dims=[2, 6, 7] is wrong. Accepted: [C, H, W] o"),
        ({"type": "transpose", "perm": [0, 1, 1]}, ".perm=[0, 1, 1] is wrong. Accepted: an order"),
        ({"type": "transpose", "perm": ["0", "1", "2"]}, ".perm=['0', '1', '2'] is wrong."),
        ({**FC, "input": 3}, ".input=3 is wrong. Accepted: the name of a layer above, image, or a"),
        ({**FC, "input": []}, ".input=[] is wrong. Accepted: the name of a layer above, image, or"),
        ({**FC, "input": "imag"}, ".input=imag is wrong. Did you mean 'image'?"),
        ({**FC, "input": ["image", "layer"]}, ".input=layer is defined below; a layer comes"),
        ({**FC, "input": "last"}, ".input=last is defined below; a layer comes after those that"),
    ],
)  # fmt: skip
def test_a_layer(node: Any, expected: str) -> None:
    assert told({"layer": node, "last": FC}).startswith(f"model.layers.layer{expected}")


def test_inputs_of_other_shapes() -> None:
    other = {**CONV, "input": "image"}
    text = told({"a": other, "b": {"type": "relu", "input": ["image", "a"]}})
    assert text.startswith("model.layers.b.input: image is 2 x 6 x 6 and a is 4 x 4 x 4")
    node = {"type": "elementwise", "operation": "sum", "input": ["image", "a"]}
    text = told({"a": {**other, "padding": 1}, "b": node})
    assert text.startswith("model.layers.b.input: image is 2 x 6 x 6 and a is 4 x 6 x 6; they must")


@pytest.mark.parametrize(
    ("pool", "keys", "expected"),
    [
        ({"kernel": 2, "stride": 2}, {"pool": "pol"}, ".pool=pol is wrong. Did you mean 'pool'?"),
        ({"kernel": 2, "mapping": ["11", "01"]}, {"pool": "pool"}, ".pool=pool is wrong. Accep"),
        ({"kernel": 2, "stride": 2}, {"pool": "pool", "stride": 1}, ".stride=1 is wrong. Accep"),
        ({"kernel": 5, "stride": 2}, {"pool": "pool"}, ".pool=pool cannot be undone: the way back"),
        ({"kernel": 2}, {"pool": "pool", "input": "image"}, ".input is 2 x 6 x 6, but pool m"),
    ],
)  # fmt: skip
def test_a_pool_that_cannot_be_undone(pool: Any, keys: Any, expected: str) -> None:
    layers = {"pool": {"type": "max_pool", **pool}, "back": {"type": "max_unpool", **keys}}
    assert told(layers).startswith(f"model.layers.back{expected}")


@pytest.mark.parametrize("name", ["", "1", 1, "conv1.1", "two words", "_conv", None])
def test_what_is_no_name(name: Any) -> None:
    assert told({name: FC}).startswith(
        f"model.layers.{name} is not a valid name of a layer. Accepted: "
    )


def test_names_that_are_taken() -> None:
    names = {*dir(LayerGraph([2, 6, 6], {"fc": FC})), *dir(fx.symbolic_trace(nn.ReLU()))}
    taken = [name for name in names if not name.startswith("_")]
    assert {"train", "half", "forward", "shapes", "outputs", "graph", "code", "meta"} <= names
    for name in {*taken, "image", "self", "lambda", "True"} - {"fc", "relu"}:
        expected = f"model.layers.{name} is a name that Python, torch or qatlab uses; try "
        assert told({name: FC}) == f"{expected}{name}_."


def test_a_layer_that_nobody_reads() -> None:
    expected = (
        "model.layers.idle is read by no layer and is not an output; delete it, or add it to "
    )
    assert told({"idle": CONV, "fc": {**FC, "input": "image"}}).startswith(expected)
    LayerGraph([2, 6, 6], {"idle": CONV, "fc": {**FC, "input": "image"}}, outputs=["fc", "idle"])


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"layers": {}}, "model.layers is empty: a network needs layers, such as {fc: {type: "),
        ({"outputs": []}, "model.outputs=[] is wrong. Accepted: names of layers, each once, or "),
        ({"outputs": ["fc", "fc"]}, "model.outputs=['fc', 'fc'] is wrong. Accepted: names of"),
        ({"outputs": ["fcc"]}, "model.outputs=fcc is wrong. Did you mean 'fc'?"),
        ({"outputs": ["image"]}, "model.outputs=image is wrong. Accepted: fc."),
        ({"input_shape": [2, 6]}, "model.input_shape=[2, 6] is wrong. Accepted: [channels, heigh"),
        ({"input_shape": [2, 6, 0]}, "model.input_shape=[2, 6, 0] is wrong. Accepted: [channels,"),
        ({"input_shape": [2, 6, "6"]}, "model.input_shape=[2, 6, '6'] is wrong. Accepted: [chan"),
        ({"in_channels": 3}, "model.input_shape=[2, 6, 6] is wrong. Accepted: [3, 6, 6], as the"),
        ({"num_classes": 12}, "model.layers.fc makes 10 x 1 x 1 of an image, but the data have 1"),
        ({"weight_init": {"type": "n"}}, "model.weight_init.type=n is wrong. Accepted: constant"),
        ({"bias_init": {"type": "he"}}, "model.bias_init.type=he is wrong. Accepted: constant, "),
    ],
)
def test_the_graph(graph: Any, expected: str) -> None:
    assert told(**{"layers": {"fc": FC}, **graph}).startswith(expected)


def test_an_image_sized_output_of_too_many_pixels_is_no_class() -> None:
    layers = {"up": {"type": "deconv", "channels": 10, "kernel": 1}}
    assert re.match(r"model\.layers\.up makes 10 x 6 x 6 of", told(layers, num_classes=10))


def test_every_type_is_tested_here() -> None:
    assert len(TYPES) == 28
