from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from nni.mutable import Categorical, CategoricalMultiple, MutableList, Numerical
from nni.mutable.annotation import ExpressionConstraint

from nni_plugins.methods.relative_nas.encoding import (
    Choice,
    Encoding,
    Subset,
    darts_encoding,
    decode_choice,
    search_space_encoding,
)
from nni_plugins.methods.relative_nas.model_space import model_space_encoding
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

EVERY_TYPE = {
    "operation": {"_type": "choice", "_value": ["conv", "pool", [1, 2], None]},
    "layers": {"_type": "randint", "_value": [2, 5]},
    "dropout": {"_type": "uniform", "_value": [0.1, 0.5]},
    "width": {"_type": "quniform", "_value": [1, 10, 4]},
    "lr": {"_type": "loguniform", "_value": [0.001, 0.1]},
    "batch": {"_type": "qloguniform", "_value": [8, 128, 8]},
    "shift": {"_type": "normal", "_value": [1.0, 2.0]},
    "offset": {"_type": "qnormal", "_value": [0.0, 3.0, 0.5]},
    "scale": {"_type": "lognormal", "_value": [0.0, 1.0]},
    "count": {"_type": "qlognormal", "_value": [2.0, 0.5, 2.0]},
}


def value_at(entry: dict[str, Any], x: float) -> Any:
    encoding = search_space_encoding({"other": {"_type": "choice", "_value": [0, 1]}, "name": entry})
    (architecture,) = encoding.decode(np.array([[0.0, x]]))
    return encoding.sample(architecture)["name"]


@pytest.mark.parametrize(
    ("x", "choice"), [(0.0, 0), (1e-9, 0), (1.0, 0), (1.0 + 1e-9, 1), (2.0, 1), (6.0, 5), (6.0 + 1e-9, 6), (7.0, 6)]
)
def test_choice_k_owns_the_interval_from_k_to_k_plus_one(x: float, choice: int) -> None:
    assert decode_choice(np.array([x])).tolist() == [choice]
    assert value_at({"_type": "choice", "_value": list("abcdefg")}, x) == "abcdefg"[choice]


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("uniform", [2.0, 4.0], {0.0: 2.0, 0.25: 2.5, 1.0: 4.0}),
        ("quniform", [1, 10, 4], {0.0: 1.0, 0.3: 4.0, 0.5: 4.0, 0.9: 8.0, 1.0: 8.0}),
        ("loguniform", [0.01, 1.0], {0.0: 0.01, 0.5: 0.1, 1.0: 1.0}),
        ("qloguniform", [8, 128, 8], {0.0: 8.0, 0.5: 32.0, 1.0: 128.0}),
        ("normal", [1.0, 2.0], {0.5: 1.0, 0.8413447460685429: 3.0, 0.0: -5.180464612, 1.0: 7.180464612}),
        ("qnormal", [0.0, 3.0, 0.5], {0.5: 0.0, 0.8413447460685429: 3.0, 0.8: 2.5}),
        ("lognormal", [0.0, 1.0], {0.5: 1.0, 0.8413447460685429: math.e}),
        ("qlognormal", [2.0, 0.5, 2.0], {0.5: 8.0, 0.0: 2.0}),
        ("randint", [2, 5], {0.0: 2, 1.0: 2, 1.5: 3, 3.0: 4}),
    ],
)
def test_numbers_follow_their_quantiles(kind: str, arguments: list[float], expected: dict[float, float]) -> None:
    for x, value in expected.items():
        assert value_at({"_type": kind, "_value": arguments}, x) == pytest.approx(value)


def test_m_chosen_are_the_m_largest_keys_and_the_first_of_equal_ones() -> None:
    subset = Subset(("a", "b", "c", "d"), 2)
    keys = np.array([[0.1, 0.9, 0.2, 0.8], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 0.3]])
    assert subset.decode(keys) == [(1, 3), (0, 1), (2, 3)]
    assert subset.value((1, 3)) == ["b", "d"]
    assert Subset(("a", "b", "c"), None).decode(np.array([[0.6, 0.5, 1.0], [0.0, 0.1, 0.2]])) == [(0, 2), ()]


def test_any_number_may_be_chosen_or_at_least_one() -> None:
    keys = np.array([[0.1, 0.4, 0.3], [0.6, 0.5, 0.9]])
    assert Subset(("a", "b", "c"), None).decode(keys) == [(), (0, 2)]
    assert Subset(("a", "b", "c"), None, at_least_one=True).decode(keys) == [(1,), (0, 2)]


def test_the_darts_cells_have_the_32_genes_of_the_paper() -> None:
    encoding = darts_encoding()
    assert list(encoding.variables)[:5] == [
        "normal/input_2_0",
        "normal/op_2_0",
        "normal/input_2_1",
        "normal/op_2_1",
        "normal/input_3_0",
    ]
    cell = [2, 7, 2, 7, 3, 7, 3, 7, 4, 7, 4, 7, 5, 7, 5, 7]
    assert encoding.upper.tolist() == cell + cell
    genes = np.zeros((1, 32))
    genes[0, :4] = [1.5, 7.0, 1.0, 3.5]
    sample = encoding.sample(encoding.decode(genes)[0])
    assert sample["normal/input_2_0"] == [1]
    assert sample["normal/op_2_0"] == "dil_conv_5x5"
    assert sample["normal/input_2_1"] == [0]
    assert sample["normal/op_2_1"] == "sep_conv_3x3"
    assert sample["reduce/op_5_1"] == "max_pool_3x3"


def test_the_darts_genes_are_those_of_the_model_space_in_nni() -> None:
    from nni.nas.hub.pytorch import DARTS

    space = DARTS(width=4, num_cells=3, dataset="cifar")
    encoding, paper = model_space_encoding(space.simplify()), darts_encoding()
    assert list(encoding.variables.items()) == list(paper.variables.items())
    assert list(DARTS_OPERATIONS_WITHOUT_NONE) == DARTS.DARTS_OPS
    population = np.random.default_rng(0).random((3, 32)) * paper.upper
    for architecture in paper.decode(population):
        assert space.contains(paper.sample(architecture))


def spaces() -> list[Encoding]:
    mutables = MutableList(
        [
            Categorical(["x", "y"], label="one"),
            CategoricalMultiple([1, 2, 3, 4], n_chosen=2, label="two"),
            CategoricalMultiple([1, 2, 3], n_chosen=1, label="single"),
            CategoricalMultiple([1, 2, 3], label="any"),
            Numerical(1.0, 9.0, label="plain"),
            Numerical(1.0, 100.0, log_distributed=True, label="log"),
            Numerical(0.0, 10.0, quantize=2.5, label="steps"),
            Numerical(mu=0.0, sigma=1.0, label="normal"),
        ]
    )
    return [search_space_encoding(EVERY_TYPE), darts_encoding(), model_space_encoding(mutables.simplify())]


@pytest.mark.parametrize("encoding", spaces(), ids=["nnictl", "darts", "mutables"])
def test_genes_architectures_and_samples_turn_into_each_other(encoding: Encoding) -> None:
    corners = np.stack([np.zeros_like(encoding.upper), encoding.upper])
    population = np.concatenate([corners, np.random.default_rng(1).random((50, len(encoding.upper))) * encoding.upper])
    for architecture in encoding.decode(population):
        sample = encoding.sample(architecture)
        hash(architecture)
        assert encoding.architecture(json.loads(json.dumps(sample))) == architecture
        genes = encoding.encode(architecture)
        assert ((genes >= 0) & (genes <= encoding.upper)).all()
        again = encoding.sample(encoding.decode(genes[None])[0])
        for name, value in sample.items():
            assert again[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value)


def test_samples_of_mutables_are_in_the_model_space() -> None:
    space = MutableList(
        [
            CategoricalMultiple([1, 2, 3, 4], n_chosen=3, label="many"),
            Numerical(mu=0.0, sigma=1.0, low=-1.0, high=1.0, label="clipped"),
            Numerical(0.0, 10.0, quantize=4, label="steps"),
        ]
    )
    encoding = model_space_encoding(space.simplify())
    for genes in (np.zeros_like(encoding.upper), encoding.upper, encoding.upper * 0.3):
        sample = encoding.sample(encoding.decode(genes[None])[0])
        space.validate(sample)


def test_a_constraint_has_no_genes() -> None:
    a, b = Categorical([1, 2], label="a"), Categorical([1, 2], label="b")
    space = MutableList([a, b, ExpressionConstraint(a + b == 3, label="sum")])
    assert list(model_space_encoding(space.simplify()).variables) == ["a", "b"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "search space is empty"),
        ([], "mapping from names to entries"),
        ({"a": {"_type": "choice", "_value": [1]}}, r"nothing to search: every entry of the space \(a\)"),
        ({"a": {"_type": "randint", "_value": [1, 2]}}, "nothing to search"),
        ({"a": {"_type": "randint", "_value": [2, 2]}}, "'a' .* no values to choose from"),
        ({"a": {"_type": "choice", "_value": []}}, "'a' .* no values to choose from"),
        ({"a": {"_type": "choice", "_value": [1, 2, 1]}}, "'a' .* lists a value twice"),
        ({"a": {"_type": "choice", "_value": [{"_name": "x"}, {"_name": "y"}]}}, "'a' .* nested choice.* flat choice"),
        ({"a": {"_type": "choice", "_value": "xyz"}}, "'a' .* needs a list"),
        ({"a": [1, 2]}, "'a' .* needs _type and _value"),
        ({"a": {"_type": "layer_choice", "_value": [1, 2]}}, "'a' .* must be choice, randint or one of"),
        ({"a": {"_type": "uniform", "_value": [1]}}, "'a' .* two finite numbers"),
        ({"a": {"_type": "quniform", "_value": [1, 2]}}, "'a' .* three"),
        ({"a": {"_type": "uniform", "_value": [0, "x"]}}, "'a' .* two finite numbers"),
        ({"a": {"_type": "uniform", "_value": [0, float("inf")]}}, "'a' .* two finite numbers"),
        ({"a": {"_type": "uniform", "_value": [2, 1]}}, "'a' .* lower bound below the upper one, not 2.0 and 1.0"),
        ({"a": {"_type": "loguniform", "_value": [0, 1]}}, "'a' .* and above 0"),
        ({"a": {"_type": "quniform", "_value": [0, 1, 0]}}, "'a' .* positive step"),
        ({"a": {"_type": "normal", "_value": [0, 0]}}, "'a' .* positive standard deviation"),
    ],
)
def test_spaces_that_are_refused(space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_space_encoding(space)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operation": "elephant"}, "'elephant' is not a value of 'operation'"),
        ({"layers": 5}, "5 is not a value of 'layers'"),
        ({"dropout": 0.7}, "0.7 is not a value of 'dropout'"),
        ({"dropout": "0.2"}, "'0.2' is not a value of 'dropout'"),
        ({"new": 1}, "A trial of another search space: it sets .*'new'"),
    ],
)
def test_samples_of_another_space_are_refused(changes: dict[str, Any], message: str) -> None:
    encoding = search_space_encoding(EVERY_TYPE)
    sample = encoding.sample(encoding.decode(encoding.upper[None] / 2)[0])
    with pytest.raises(ValueError, match=message):
        encoding.architecture({**sample, **changes})
    with pytest.raises(ValueError, match="another search space"):
        encoding.architecture([1, 2])  # type: ignore[arg-type]


def test_wrong_subsets_are_refused() -> None:
    encoding = Encoding({"x": Subset((1, 2, 3), 2), "y": Choice((0, 1), as_list=True)})
    for x, y in (([1], [0]), ([1, 1], [0]), ([1, 4], [0]), (3, [0]), ([1, 2], [0, 1]), ([1, 2], [])):
        with pytest.raises(ValueError, match=r"is not a value of '[xy]' in this space"):
            encoding.architecture({"x": x, "y": y})


def test_a_model_space_without_a_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="search space is empty"):
        model_space_encoding({})
