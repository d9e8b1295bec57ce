"""The ten changes of robust accuracy do what their names say, always in the same way."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vgg_flax.insight import robust

SIZE = 96
CONTENTS = [f"{i:064x}" for i in range(32)]


def changed(name: str, picture: np.ndarray, content: str = CONTENTS[0]) -> np.ndarray:
    return robust.change(name, picture[None], [content])[0]


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def soft() -> np.ndarray:
    """Four by four coloured tiles, none of them near 0 or 255."""
    tiles = np.random.default_rng(1).integers(40, 200, (4, 4, 3), np.uint8)
    return tiles.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)


def test_there_are_ten_changes() -> None:
    assert len(robust.CHANGES) == 10


@pytest.mark.parametrize("name", robust.CHANGES)
def test_same_content_same_bits_whatever_the_order_and_the_input_stays(name: str, noise: np.ndarray) -> None:
    pictures = np.stack([np.roll(noise, 7 * i, 0) for i in range(4)])
    before = pictures.copy()
    forward = robust.change(name, pictures, CONTENTS[:4])
    backward = robust.change(name, pictures[::-1], CONTENTS[3::-1])
    assert forward.dtype == np.uint8 and forward.shape == pictures.shape
    assert np.array_equal(forward, backward[::-1])
    assert np.array_equal(pictures, before)
    assert not np.array_equal(forward, pictures)


@pytest.mark.parametrize(("name", "factor"), [("half size", 2), ("third size", 3)])
def test_smaller_is_the_mean_of_squares_in_the_middle_of_a_blurred_frame(
    name: str, factor: int, noise: np.ndarray
) -> None:
    result = changed(name, noise)
    small, start = SIZE // factor, (SIZE - SIZE // factor) // 2
    means = noise.reshape(small, factor, small, factor, 3).mean((1, 3))
    middle = result[start : start + small, start : start + small]
    assert np.abs(middle - means).max() <= 1
    frame = result[: start - 1].astype(float)
    assert np.abs(np.diff(frame, axis=1)).max() < 10  # noise has steps of 255
    assert abs(frame.mean() - noise.mean()) < 10


def test_off_centre_lies_in_every_corner_for_some_photo() -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, SIZE).astype(np.uint8)[:, None, None], (SIZE, SIZE, 3))
    part = SIZE * 2 // 3
    expected = np.interp((np.arange(part) + 0.5) * 1.5 - 0.5, np.arange(SIZE), ramp[:, 0, 0])
    corners = {"top left": np.s_[:part, 0], "top right": np.s_[:part, -1]}
    corners |= {"bottom left": np.s_[-part:, 0], "bottom right": np.s_[-part:, -1]}
    found = set()
    for content in CONTENTS:
        result = changed("off centre", ramp, content)[..., 0].astype(float)
        fits = [corner for corner, where in corners.items() if np.abs(result[where] - expected).max() <= 2]
        assert len(fits) == 1
        found |= set(fits)
    assert found == corners.keys()


def test_turned_by_15_moves_a_dot_along_a_circle_to_either_side() -> None:
    radius, centre = 30, (SIZE - 1) / 2
    dark = np.zeros((SIZE, SIZE, 3), np.uint8)
    dark[47:49, 77:79] = 255  # right of the centre, (0, 30) from it
    sides = set()
    for content in CONTENTS:
        result = changed("turned by 15", dark, content)[..., 0].astype(float)
        result[result < 40] = 0  # the blurred surroundings
        down, right = (np.average(np.arange(SIZE) - centre, weights=result.sum(axis)) for axis in (1, 0))
        assert right == pytest.approx(radius * math.cos(math.radians(15)), abs=0.5)
        assert abs(down) == pytest.approx(radius * math.sin(math.radians(15)), abs=0.5)
        sides.add(down > 0)
    assert sides == {True, False}


def test_turned_by_90_is_a_transpose_and_a_mirror_to_either_side(noise: np.ndarray) -> None:
    turned = noise.transpose(1, 0, 2)
    sides = [turned[::-1], turned[:, ::-1]]
    found = {next(i for i in (0, 1) if np.array_equal(changed("turned by 90", noise, c), sides[i])) for c in CONTENTS}
    assert found == {0, 1}


def test_dark_has_a_quarter_of_the_light(noise: np.ndarray) -> None:
    assert np.abs(changed("dark", noise) - noise / 4).max() <= 0.5


def test_warm_light_doubles_red_against_blue(soft: np.ndarray) -> None:
    result = changed("warm light", soft).astype(float)
    ratio = (result[..., 0] / result[..., 2]) / (soft[..., 0] / soft[..., 2].astype(float))
    assert ratio == pytest.approx(np.full(ratio.shape, 2.0), rel=0.05)
    assert np.array_equal(result[..., 1], soft[..., 1])


def test_low_contrast_keeps_the_mean_and_a_third_of_the_deviation(noise: np.ndarray) -> None:
    result = changed("low contrast", noise)
    assert result.mean() == pytest.approx(noise.mean(), abs=0.1)
    assert result.std() == pytest.approx(0.3 * noise.std(), rel=0.01)


def test_blur_turns_an_edge_into_the_gaussian_integral() -> None:
    edge = np.zeros((SIZE, SIZE, 3), np.uint8)
    edge[:, SIZE // 2 :] = 200
    sigma = SIZE / 75
    expected = [100 * (1 + math.erf((x - SIZE / 2 + 0.5) / (sigma * math.sqrt(2)))) for x in range(SIZE)]
    assert np.abs(changed("blur", edge)[50, :, 0] - np.array(expected)).max() < 3


def test_jpeg_is_what_pillow_makes_of_it_at_quality_20(soft: np.ndarray) -> None:
    picture = np.clip(soft + np.random.default_rng(2).normal(0, 10, soft.shape), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=20)
    theirs = np.asarray(Image.open(encoded)).astype(float)
    ours = changed("JPEG 20", picture)
    assert np.abs(ours - theirs).mean() < 1
    assert np.abs(ours.astype(float) - picture).mean() > 4  # else the comparison would say nothing


def test_robust_accuracy_is_the_mean_over_the_changes_of_right_answers(soft: np.ndarray) -> None:
    pictures = np.stack([soft, soft[::-1]])

    def lit(images: np.ndarray) -> np.ndarray:
        """Class 1 for a picture that is not dark."""
        return np.stack([np.full(len(images), 60.0), images.mean((1, 2, 3))], 1)

    by_change = robust.accuracies(lit, pictures, CONTENTS[:2], np.array([1, 0]))
    assert by_change == dict.fromkeys(robust.CHANGES, 0.5)
    by_change = robust.accuracies(lit, pictures, CONTENTS[:2], np.array([1, 1]))
    assert by_change["dark"] == 0.0 and by_change["blur"] == 1.0
    assert robust.robust_accuracy(by_change) == pytest.approx(0.9)


def test_jax_is_not_imported() -> None:
    check = "import sys, vgg_flax.insight.robust; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
