"""The parameter tree: splitting, joining, and refusing what does not fit."""

import numpy as np
import pytest

from vgg_flax.network import params


def tree():
    return {
        "backbone": {"block5_conv1": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.zeros(4)}},
        "head": {"predictions": {"kernel": np.ones((4, 2)), "bias": np.zeros(2)}},
    }


def test_partition_and_combine_are_inverse():
    chosen, rest = params.partition(tree(), lambda path: path.startswith("head/"))
    assert set(params.flatten(chosen)) == {"head/predictions/kernel", "head/predictions/bias"}
    assert set(params.flatten(rest)) == {"backbone/block5_conv1/kernel", "backbone/block5_conv1/bias"}
    assert params.flatten(params.combine(chosen, rest)).keys() == params.flatten(tree()).keys()


def test_partition_refuses_to_choose_nothing():
    with pytest.raises(ValueError, match=r"none of backbone/block5_conv1/bias, .* is chosen"):
        params.partition(tree(), lambda path: path.startswith("haed/"))


def test_combine_refuses_a_path_given_twice():
    with pytest.raises(ValueError, match="given twice: head/predictions/bias"):
        params.combine(tree(), {"head": {"predictions": {"bias": np.zeros(2)}}})


def test_merge_strict_names_everything_that_is_wrong():
    found = tree()
    found["head"]["predictions"]["kernel"] = np.ones((5, 2))
    found["head"]["fc1"] = {"bias": np.zeros(3)}
    del found["backbone"]["block5_conv1"]["bias"]
    with pytest.raises(ValueError) as error:
        params.merge_strict(tree(), found)
    assert "missing backbone/block5_conv1/bias (4,)" in str(error.value)
    assert "unexpected head/fc1/bias (3,)" in str(error.value)
    assert "head/predictions/kernel has shape (5, 2), expected (4, 2)" in str(error.value)


def test_digest_sees_values_shapes_and_names():
    base = params.digest(tree())
    value, shape = tree(), tree()
    value["head"]["predictions"]["bias"][0] = 1e-30
    shape["head"]["predictions"]["kernel"] = np.ones((2, 4))
    renamed = {"backbone": tree()["backbone"], "top": tree()["head"]}
    assert len({base, params.digest(value), params.digest(shape), params.digest(renamed)}) == 4
    assert params.digest(tree()) == base
