"""The Winograd kernel computes what a convolution is, whatever the shape, the batch, the threads and the values."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.ffi
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import weights_convert
from vgg_flax.data.decode import load_image
from vgg_flax.network import winograd
from vgg_flax.network.extract import Extractor
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import BACKBONES, Preprocessing
from vgg_flax.network.winograd import build

VGG16 = {"depths": (2, 2, 3, 3, 3), "channels": (64, 128, 256, 512, 512)}
VGG19 = {"depths": (2, 2, 4, 4, 4), "channels": (64, 128, 256, 512, 512)}
SMALL = {"depths": (2, 1, 2), "channels": (8, 20, 4)}


@pytest.fixture(scope="module", autouse=True)
def kernel(tmp_path_factory):
    if "CXX" not in os.environ and not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("no C++ compiler on this machine")
    winograd.load(tmp_path_factory.mktemp("cache"))


def backbone(depths, channels, seed=0):
    """He-initialised weights under Keras's names."""
    rng = np.random.default_rng(seed)
    weights, inputs = {}, 3
    for block, (depth, outputs) in enumerate(zip(depths, channels, strict=True), 1):
        for i in range(1, depth + 1):
            kernel = rng.standard_normal((3, 3, inputs, outputs)) * np.sqrt(2 / (9 * inputs))
            bias = rng.standard_normal(outputs) * 0.1
            weights[f"block{block}_conv{i}"] = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
            inputs = outputs
    return weights


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def layer_by_layer(weights, images, convolve, pool):
    outputs, names = {}, sorted(weights)
    for name, following in zip(names, [*names[1:], "end_"], strict=True):
        block = name.split("_")[0]
        images = convolve(images, weights[name]["kernel"], weights[name]["bias"])
        if following.split("_")[0] != block:
            images = outputs[block] = pool(images)
    return outputs


@jax.jit
def with_lax(weights, images):
    """XLA's own convolution and pooling."""

    def convolve(x, kernel, bias):
        return jax.nn.relu(lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC) + bias)

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    return layer_by_layer(weights, images, convolve, pool)


_NHWC = ("NHWC", "HWIO", "NHWC")


def with_float64(weights, images):
    """The definition, in NumPy and double precision."""

    def convolve(x, kernel, bias):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        product = np.concatenate(taps, -1) @ kernel.astype(np.float64).reshape(-1, kernel.shape[-1])
        return np.maximum(product + bias, 0)

    def pool(x):
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        x = x[:, :height, :width]
        return np.maximum(np.maximum(x[:, ::2, ::2], x[:, 1::2, ::2]), np.maximum(x[:, ::2, 1::2], x[:, 1::2, 1::2]))

    return layer_by_layer(weights, images.astype(np.float64), convolve, pool)


def relative_rms(result, expected):
    return float(np.sqrt(np.mean((np.asarray(result) - expected) ** 2) / np.mean(np.square(expected))))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    depths=st.tuples(st.integers(2, 3), st.integers(1, 2), st.integers(1, 2)),
    channels=st.tuples(*[st.sampled_from([1, 4, 8, 16, 20, 40])] * 3),
    batch=st.integers(1, 5),
    height=st.integers(32, 61),
    width=st.integers(32, 61),
)
def test_agrees_with_lax_conv_for_any_shape(depths, channels, batch, height, width):
    weights = backbone(depths, channels)
    images = pictures(batch, height, width, 3)
    expected = with_lax(weights, images)
    result = winograd.features(winograd.pack(weights), jnp.asarray(images), sorted(expected))
    for block, array in expected.items():
        np.testing.assert_allclose(result[block], array, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [VGG16, VGG19], ids=["vgg16", "vgg19"])
def test_is_as_accurate_as_promised(network):
    weights, images = backbone(**network), pictures(1, 70, 96, 3)
    result = jax.jit(winograd.features)(winograd.pack(weights), images)
    expected = with_float64(weights, images)
    assert sorted(result) == ["block3", "block4", "block5"]
    for block in result:
        assert relative_rms(result[block], expected[block]) < 5e-6, block


@pytest.fixture(scope="module")
def imagenet():
    """The backbone of ImageNet's VGG16, and what it expects of pictures."""
    weights = weights_convert.load("imagenet", BACKBONES["vgg16"], say=print)
    return weights.backbone, weights.preprocessing


def real_photos(masks, size, every):
    """One in `every` of the real photos, uint8 `[n, size, size, 3]`, and the names of their classes."""
    files = sorted(masks.glob("*/*"))[::every]
    return np.stack([load_image(file, Preprocessing(size)) for file in files]), [file.parent.name for file in files]


@pytest.mark.weights
def test_real_photos_with_real_weights_are_as_accurate(masks, imagenet):
    weights, preprocessing = imagenet
    images = normalize(real_photos(masks, 224, 400)[0], preprocessing)
    result = winograd.features(winograd.pack(weights), images)
    for i in range(len(images)):
        expected = with_float64(weights, images[i : i + 1])
        for block in result:
            assert relative_rms(result[block][i : i + 1], expected[block]) <= 5e-6, (i, block)


@pytest.mark.weights
@pytest.mark.parametrize(("size", "every"), [(224, 32), pytest.param(64, 1, marks=pytest.mark.slow)])
def test_real_photos_get_the_label_that_xla_gives_them(masks, imagenet, size, every):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights, preprocessing = imagenet
    images, labels = real_photos(masks, size, every)
    probabilities, head = {}, make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for engine in ("xla", "winograd"):
        record = dataclasses.replace(preprocessing, image_size=size)
        extract = Extractor(BACKBONES["vgg16"], weights, record, engine=engine)
        features = np.concatenate([extract(images[i : i + 16])["pooled"] for i in range(0, len(images), 16)])
        if engine == "xla":
            head.fit(features[::2], labels[::2])
        probabilities[engine] = head.predict_proba(features)
    np.testing.assert_array_equal(probabilities["winograd"].argmax(-1), probabilities["xla"].argmax(-1))
    np.testing.assert_allclose(probabilities["winograd"], probabilities["xla"], atol=1e-4)


def test_images_of_another_size_than_32_times_n_are_pooled_as_keras_does():
    images = pictures(1, 227, 243, 3)
    weights = backbone((2, 1, 1, 1, 1), (4, 4, 4, 4, 4))
    blocks = ["block1", "block5"]
    result, expected = winograd.features(winograd.pack(weights), images, blocks), with_float64(weights, images)
    for block in blocks:
        assert result[block].shape == expected[block].shape
        assert relative_rms(result[block], expected[block]) < 5e-6


def test_blocks_after_the_last_one_named_are_not_needed():
    weights, images = backbone(**SMALL), pictures(1, 32, 32, 3)
    packed = winograd.pack({name: weights[name] for name in weights if name.startswith("block1")})
    np.testing.assert_array_equal(
        winograd.features(packed, images, ["block1"])["block1"],
        winograd.features(winograd.pack(weights), images, ["block3", "block1"])["block1"],
    )


def assert_same_bits(first, second):
    for block in first:
        np.testing.assert_array_equal(np.asarray(first[block]).view(np.int32), np.asarray(second[block]).view(np.int32))


@pytest.mark.parametrize("size", [32, 76])
def test_an_image_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(size):
    packed = winograd.pack(backbone((2, 2, 3, 1, 1), (16, 32, 64, 128, 128)))
    images = pictures(11, size, size + 9, 3)
    run = jax.jit(winograd.features, static_argnames="threads")
    together = run(packed, images)
    assert_same_bits(run(packed, images, threads=1), together)
    assert_same_bits(run(packed, images, threads=7), together)
    for i in (0, 10):
        assert_same_bits(run(packed, images[i : i + 1]), {block: out[i : i + 1] for block, out in together.items()})


def test_concurrent_calls_do_not_disturb_each_other():
    packed = winograd.pack(backbone(**SMALL))
    run = jax.jit(lambda images: winograd.features(packed, images, ["block2", "block3"]))
    batches = [pictures(3, 64, 50, 3, seed=seed) for seed in range(4)]
    alone = [run(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        for _ in range(10):
            for result, expected in zip(executor.map(run, batches), alone, strict=True):
                assert_same_bits(result, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", [(0, 0), (13, 22), (36, 44)], ids=str)
def test_nan_and_infinity_spread_as_in_a_direct_convolution(value, place):
    weights, images = backbone(**SMALL), pictures(2, 37, 45, 3)
    packed, blocks = winograd.pack(weights), ["block1", "block2", "block3"]
    clean = winograd.features(packed, images, blocks)
    images[1, *place, 1] = value
    with np.errstate(invalid="ignore"):
        expected = with_float64(weights, images)  # XLA's fused ReLU and pooling may drop NaN
    assert not np.isfinite(expected["block1"]).all()
    result = winograd.features(packed, images, blocks)
    for block in blocks:
        np.testing.assert_allclose(result[block], expected[block], rtol=1e-4, atol=1e-4, equal_nan=True)
        np.testing.assert_array_equal(result[block][0], clean[block][0])


def test_values_that_only_winograd_would_overflow_on_stay_finite():
    weights = backbone((2,), (16,))
    weights["block1_conv2"]["kernel"] *= 1e-3
    images = pictures(1, 32, 32, 3) * np.float32(2e37)
    expected = with_lax(weights, images)["block1"]
    assert np.isfinite(expected).all()
    result = winograd.features(winograd.pack(weights), images, ["block1"])["block1"]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e30)


def test_has_no_gradient():
    packed = winograd.pack(backbone(**SMALL))
    with pytest.raises(ValueError, match="differentiated"):
        jax.grad(lambda x: winograd.features(packed, x, ["block1"])["block1"].sum())(jnp.ones((1, 32, 32, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((1, 32, 32, 3), np.float32), ["block4"]), "expected some of block1, block2, block3"),
        ((np.ones((32, 32, 3), np.float32), ["block1"]), r"float32\[32, 32, 3\], expected float32\[batch"),
        ((np.ones((1, 32, 32, 3), np.uint8), ["block1"]), "uint8"),
        ((np.ones((1, 7, 32, 3), np.float32), ["block3"]), "at least 8 pixels a side for block3"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        winograd.features(winograd.pack(backbone(**SMALL)), *arguments)


def test_images_with_other_channels_than_the_filters_are_refused():
    packed = winograd.pack(backbone(**SMALL))
    with pytest.raises(jax.errors.JaxRuntimeError, match="filters don't fit"):
        jax.block_until_ready(winograd.features(packed, np.ones((1, 32, 32, 4), np.float32), ["block1"]))


def test_weights_that_are_no_vgg_are_refused():
    weights = backbone(**SMALL)
    with pytest.raises(ValueError, match="found block2_conv1"):
        winograd.pack({"block2_conv1": weights["block2_conv1"]})
    with pytest.raises(ValueError, match="block1_conv2 is missing"):
        winograd.pack({"block1_conv1": weights["block1_conv1"]})
    with pytest.raises(ValueError, match="found predictions"):
        winograd.pack(weights | {"predictions": weights["block1_conv1"]})
    with pytest.raises(ValueError, match=r"block1_conv2: kernel has shape .*expected \(3, 3, 8, out\)"):
        winograd.pack(weights | {"block1_conv2": weights["block1_conv1"]})
    weights["block2_conv1"]["bias"][3] = np.nan
    with pytest.raises(ValueError, match="block2_conv1: weights hold NaN"):
        winograd.pack(weights)


# ---------------------------------------------------------------------------------------------------- the build

# Prints macros when asked for them, else "compiles", slowly enough for two processes to meet, and leaves a mark.
FAKE_COMPILER = """#!/bin/sh
case "$*" in *-dM*) echo '#define __VERSION__ "1"'; exit;; esac
echo compiled >> "$(dirname "$0")/log"
sleep 1
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    path = tmp_path / "fake-c++"
    path.write_text(FAKE_COMPILER)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def test_the_library_is_built_once_and_said_so(tmp_path, fake_compiler):
    said = []
    first = build.build(tmp_path / "winograd", said.append)
    assert build.build(tmp_path / "winograd", said.append) == first
    assert len(said) == 1
    assert (tmp_path / "log").read_text() == "compiled\n"
    assert (tmp_path / "winograd").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (tmp_path / "winograd").iterdir()) == sorted([first.name, "lock"])


def test_another_compiler_version_gets_a_library_of_its_own(tmp_path, fake_compiler):
    first = build.build(tmp_path / "winograd", print)
    fake_compiler.write_text(FAKE_COMPILER.replace('"1"', '"2"'))
    assert build.build(tmp_path / "winograd", print) != first


def test_what_a_killed_compilation_left_is_removed_by_the_next(tmp_path, fake_compiler):
    code = "import sys; from pathlib import Path; from vgg_flax.files import temporary_name\n"
    code += "temporary_name(Path(sys.argv[1], 'kernel.so')).write_text('half a library')"
    (tmp_path / "winograd").mkdir(mode=0o700)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "winograd")], check=True)
    assert len(list((tmp_path / "winograd").iterdir())) == 1
    path = build.build(tmp_path / "winograd", print)
    assert sorted(one.name for one in (tmp_path / "winograd").iterdir()) == sorted([path.name, "lock"])


def test_two_processes_starting_together_build_one_library(tmp_path, fake_compiler):
    code = "import sys, pathlib; from vgg_flax.network.winograd import build\n"
    code += "build.build(pathlib.Path(sys.argv[1]), print)"
    command = [sys.executable, "-c", code, str(tmp_path / "winograd")]
    root = Path(build.__file__).parents[3]
    processes = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "compiled\n"


def unavailable(folder):
    with pytest.raises(winograd.Unavailable) as caught:
        build.build(folder, print)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_a_compiler_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler found" in unavailable(tmp_path / "winograd")
    assert "apt install g++" in unavailable(tmp_path / "winograd")
    assert not (tmp_path / "winograd").exists()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(tmp_path, fake_compiler):
    failing = 'echo "In file included from x:"; echo "k.cc:1: fatal error: no <atomic>" >&2; exit 1'
    fake_compiler.write_text(FAKE_COMPILER.replace("sleep 1", failing))
    assert "fatal error: no <atomic>; g++" in unavailable(tmp_path / "winograd")
    assert [path.name for path in (tmp_path / "winograd").iterdir()] == ["lock"]


@pytest.mark.parametrize("writable", [0o770, 0o707])
def test_a_cache_that_others_can_write_is_refused(tmp_path, fake_compiler, writable):
    path = build.build(tmp_path / "winograd", print)
    path.chmod(writable)
    assert re.search(rf"{path.name} can be written by other users", unavailable(tmp_path / "winograd"))
    path.chmod(0o700)
    (tmp_path / "winograd").chmod(writable)
    assert "winograd can be written by other users" in unavailable(tmp_path / "winograd")


def test_a_cache_of_another_user_is_refused(tmp_path, fake_compiler, monkeypatch):
    build.build(tmp_path / "winograd", print)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in unavailable(tmp_path / "winograd")


def test_a_linked_library_is_refused(tmp_path, fake_compiler):
    path = build.build(tmp_path / "winograd", print)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in unavailable(tmp_path / "winograd")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, fake_compiler):
    (tmp_path / "file").touch()
    message = unavailable(tmp_path / "file" / "winograd")
    assert str(tmp_path / "file") in message and "VGG_FLAX_CACHE" in message


# ---------------------------------------------------------------------------------------------------- sanitizers

# Small networks through both schedules, with helpers that come at once, late, or after the end; two calls at a time.
HARNESS = r"""
#include KERNEL
#include <cassert>
#include <cmath>
#include <cstdio>

std::vector<float> noise(Index count, unsigned seed) {
  std::vector<float> values(count);
  for (float& value : values) value = ((seed = seed * 1664525 + 1013904223) >> 8) / 16777216.0f - 0.5f;
  return values;
}

std::vector<float> run(Index batch, Index height, Index width, Index threads, const Schedule& schedule, bool defect) {
  const Index channels[] = {3, 16, 20, 64, 4, 130};
  std::vector<std::vector<float>> memory;
  std::vector<Convolution> convolutions;
  Index h = height, w = width;
  for (int i = 0; i < 5; ++i) {
    const Index in = channels[i], out = channels[i + 1], panels = ceil_div(out, kPanel);
    memory.push_back(noise(panels * 9 * in * kPanel, i));
    const float* filters = memory.back().data();
    memory.push_back(noise(kPlanes * panels * round_up(in, kPanel) * kPanel, 10 + i));
    const float* transformed = i == 0 ? nullptr : memory.back().data();
    memory.push_back(noise(out, 20 + i));
    const bool pool = i % 2 == 1;
    convolutions.push_back({filters, transformed, memory.back().data(), in, out, pool, nullptr});
    if (pool) h /= 2, w /= 2;
  }
  std::vector<float> images = noise(batch * height * width * 3, 99), result(batch * h * w * round_up(130, kPanel));
  if (defect) images[images.size() / 2] = NAN;
  convolutions.back().result = result.data();
  forward(images.data(), batch, height, width, convolutions, threads, schedule);
  return result;
}

int main() {
  for (const auto& [batch, height, width] : {std::array<Index, 3>{1, 32, 32}, {3, 33, 47}, {9, 70, 36}}) {
    for (bool defect : {false, true}) {
      const auto alone = run(batch, height, width, 1, [](auto) { assert(false); }, defect);
      const auto same = [&](const std::vector<float>& other) {
        if (std::memcmp(alone.data(), other.data(), alone.size() * sizeof(float)) != 0) std::abort();
      };
      std::vector<std::thread> helpers;
      const auto at_once = [&](std::function<void()> task) { helpers.emplace_back(std::move(task)); };
      same(run(batch, height, width, 4, at_once, defect));
      std::vector<std::function<void()>> late;
      same(run(batch, height, width, 3, [&](std::function<void()> task) { late.push_back(std::move(task)); }, defect));
      for (auto& task : late) task();
      same(run(batch, height, width, 3, [](std::function<void()> task) { task(); }, defect));
      const auto detached = [](std::function<void()> task) { std::thread(std::move(task)).detach(); };
      std::thread other([&] { same(run(batch, height, width, 3, detached, defect)); });
      same(run(batch, height, width, 2, detached, defect));
      other.join();
      for (std::thread& helper : helpers) helper.join();
    }
  }
  std::puts("clean");
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path, sanitizer):
    source, program = tmp_path / "harness.cc", tmp_path / "harness"
    source.write_text(textwrap.dedent(HARNESS))
    command = [flag for flag in build._command() if flag not in ("-shared", "-O3")]
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f'-DKERNEL="{build.SOURCE}"']
    subprocess.run([*command, *flags, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")
