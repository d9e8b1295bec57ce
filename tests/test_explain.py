"""Heat maps: what the parts add up to, and the same maps from finite differences in plain numpy."""

import numpy as np
import pytest

from vgg_flax.answers.bundle import Bundle
from vgg_flax.insight.explain import Explainer, explain
from vgg_flax.network import model, params
from vgg_flax.network.extract import Extractor
from vgg_flax.network.spec import HeadSpec, ModelSpec

HEADS = {
    "regression": HeadSpec(3),
    "averages": HeadSpec(3, (5,), ("average",)),
    "maxima": HeadSpec(3, (4, 5), ("maximum",)),
    "hidden": HeadSpec(3, hidden=(6,)),
    "notebook": HeadSpec(3, (5,), ("flatten",), (7, 5), standardize=False),
    "shallow": HeadSpec(3, (3, 4), ("average", "maximum")),
}


def network(small_spec, kind, size=64):
    spec = ModelSpec(small_spec.backbone, HEADS[kind], size)
    rng, shapes = np.random.default_rng(3), params.flatten(model.abstract_params(spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.4).astype(np.float32) for path, leaf in shapes.items()}
    if "head/standardize/std" in flat:
        flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.3
    return spec, params.unflatten(flat)


def random_maps(spec, count, rng, dtype=np.float32):
    """Outputs of ReLU: half of the places are zero, and whole channels too."""
    maps = {}
    for block in (3, 4, 5):
        side, channels = spec.image_size // 2**block, spec.backbone.blocks[block - 1][-1]
        drawn = rng.normal(size=(count, side, side, channels)).clip(0)
        drawn[..., 0] = 0
        maps[f"block{block}"] = drawn.astype(dtype)
    return maps


def numpy_logits(spec, head, maps):
    """The head once more, in float64."""
    if spec.head.flat:
        x = maps["block5"].reshape(len(maps["block5"]), -1)
    else:
        pools = {"average": np.mean, "maximum": np.max}
        x = np.concatenate([pools[p](maps[f"block{b}"], (1, 2)) for b in spec.head.blocks for p in spec.head.pools], 1)
    if spec.head.standardize:
        x = (x - head["standardize"]["mean"]) / head["standardize"]["std"]
    for i in range(1, len(spec.head.hidden) + 1):
        x = (x @ head[f"fc{i}"]["kernel"] + head[f"fc{i}"]["bias"]).clip(0)
    return x @ head["predictions"]["kernel"] + head["predictions"]["bias"]


@pytest.mark.parametrize("kind", ["regression", "averages", "maxima", "shallow"])
def test_the_parts_of_a_linear_head_add_up_to_its_logit(small_spec, kind):
    spec, weights = network(small_spec, kind)
    maps, targets = random_maps(spec, 5, np.random.default_rng(0)), np.array([0, 1, 2, 1, 0])
    found, head = explain(spec, weights["head"], maps, targets), weights["head"]
    standardize, last = head["standardize"], head["predictions"]
    constant = last["bias"] - (standardize["mean"] / standardize["std"]) @ last["kernel"].astype(np.float64)
    logits = numpy_logits(spec, head, {name: array.astype(np.float64) for name, array in maps.items()})
    expected = logits[np.arange(5), targets]
    np.testing.assert_allclose(sum(found.by_block().values()), expected - constant[targets], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.constants, constant[targets], rtol=1e-4, atol=1e-4)
    assert set(found.parts) == {f"block{i}" for i in spec.head.blocks}


def test_a_maximum_counts_where_it_lies_and_an_average_everywhere(small_spec):
    spec, weights = network(small_spec, "regression")
    head = weights["head"]
    for array in (head["standardize"]["mean"], head["predictions"]["kernel"], head["predictions"]["bias"]):
        array[:] = 0
    head["standardize"]["std"][:] = 1
    maximum = 8 * 2 + 8 * 2 + 8 + 1  # channel 1 of block 5; before it lie blocks 3 and 4, and the averages of 5
    head["predictions"]["kernel"][maximum, 2] = 3
    maps = {name: np.zeros((1, 64 // 2**i, 64 // 2**i, 8), np.float32) for i, name in enumerate(spec_blocks(), 3)}
    maps["block5"][0, :, :, 1] = [[1, 5], [5, 2]]
    found = explain(spec, head, maps, np.array([2]))
    np.testing.assert_allclose(found.parts["block5"][0], [[0, 7.5], [7.5, 0]], err_msg="equal maxima share it")
    head["predictions"]["kernel"][maximum - 8, 2] = 4  # its average
    found = explain(spec, head, maps, np.array([2]))
    np.testing.assert_allclose(found.parts["block5"][0], [[1, 12.5], [12.5, 2]])
    assert not found.parts["block3"].any() and not found.parts["block4"].any()


def spec_blocks():
    return ("block3", "block4", "block5")


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_grad_cam_is_that_of_finite_differences(small_spec, kind):
    spec, weights = network(small_spec, kind)
    maps = random_maps(spec, 2, np.random.default_rng(1), np.float64)
    targets, deepest = np.array([1, 2]), f"block{max(spec.head.blocks)}"
    found = explain(spec, weights["head"], {k: v.astype(np.float32) for k, v in maps.items()}, targets)
    gradient, step = np.zeros_like(maps[deepest]), 1e-6
    for place in np.ndindex(gradient.shape[1:]):
        sides = []
        for sign in (1, -1):
            moved = {name: array.copy() for name, array in maps.items()}
            moved[deepest][(slice(None), *place)] += sign * step
            sides.append(numpy_logits(spec, weights["head"], moved)[np.arange(2), targets])
        gradient[(slice(None), *place)] = (sides[0] - sides[1]) / (2 * step)
    alpha = gradient.mean((1, 2), keepdims=True)  # equation 1 of the paper, then equation 2
    # A channel that is zero everywhere has a kink there, and adds nothing either way.
    expected = (alpha * maps[deepest]).sum(-1).clip(0)
    np.testing.assert_allclose(found.grad_cam, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.parts[deepest], (gradient * maps[deepest]).sum(-1), rtol=1e-3, atol=1e-4)


def test_the_positive_class_activation_map_is_grad_cam_where_the_head_reads_averages(small_spec):
    spec, weights = network(small_spec, "averages")
    found = explain(spec, weights["head"], random_maps(spec, 4, np.random.default_rng(2)), np.array([0, 1, 2, 0]))
    np.testing.assert_allclose(found.grad_cam, found.parts["block5"].clip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["regression", "notebook"])
def test_an_explainer_explains_pictures_with_the_kernel_that_has_no_gradient(small_spec, preprocessing, kind):
    spec, weights = network(small_spec, kind, 32)
    bundle = Bundle(spec, weights, ("a", "b", "c"), preprocessing)
    images = np.random.default_rng(4).integers(0, 256, (70, 32, 32, 3), np.uint8)  # more than a batch
    targets = np.arange(70) % 3
    [found, other] = Explainer(bundle).explain(images, targets, 2 - targets)
    extractor = Extractor(
        spec.backbone, weights["backbone"], preprocessing, engine="xla", outputs=("block3", "block4", "block5")
    )
    maps = {name: np.asarray(array, np.float64) for name, array in extractor(images).items()}
    expected = numpy_logits(spec, weights["head"], maps)[np.arange(70), targets]
    np.testing.assert_allclose(found.logits, expected, rtol=1e-3, atol=1e-3)
    assert found.grad_cam.shape == (70, 1, 1) and (found.targets == targets).all()
    assert (other.targets == 2 - targets).all() and found.linear == (kind == "regression")
    assert found.shown(48).shape == (70, 48, 48)


def test_heat_keeps_the_sum_of_its_parts(small_spec):
    spec, weights = network(small_spec, "regression")
    found = explain(spec, weights["head"], random_maps(spec, 3, np.random.default_rng(5)), np.array([0, 1, 2]))
    heat = found.heat(64)
    assert heat.shape == (3, 64, 64)
    np.testing.assert_allclose(heat.sum((1, 2)), sum(found.by_block().values()), rtol=1e-3, atol=1e-3)
