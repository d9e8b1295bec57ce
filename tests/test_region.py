"""The part of a picture that the model sees: the same in training, in files and live."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import write_photos

import vgg_flax
from vgg_flax.answers.predictor import Predictor
from vgg_flax.data import open_dataset
from vgg_flax.data.decode import load_image
from vgg_flax.data.photos import decoded_photos
from vgg_flax.data.reading import look_at
from vgg_flax.errors import UserError
from vgg_flax.network.preprocess import prepare_frame, region_of, resize
from vgg_flax.network.spec import Preprocessing
from vgg_flax.region import shares
from vgg_flax.settings import TrainSettings, from_flat


@pytest.mark.parametrize(("region", "height", "width", "expected"), [
    ("full", 48, 64, (0, 0, 64, 48)),
    ("center", 48, 64, (8, 0, 48, 48)),
    ("center", 65, 20, (0, 22, 20, 20)),
    ("0.25,0.5,0.5,0.25", 48, 64, (16, 24, 32, 12)),
    ("0.99,0.99,0.01,0.01", 10, 10, (9, 9, 1, 1)),
    ("0,0,1,1", 1, 1, (0, 0, 1, 1)),
    (" 0.1 , 0.1 , 0.8 , 0.8 ", 10, 10, (1, 1, 8, 8)),
])  # fmt: skip
def test_where_a_region_is(region, height, width, expected):
    assert region_of(region, height, width) == expected
    left, top, wide, high = region_of(region, height, width)
    assert 0 <= left < left + wide <= width and 0 <= top < top + high <= height


@pytest.mark.parametrize(
    "region",
    ["", "middle", "1,2,3", "0,0,1", "0,0,0,1", "-0.1,0,1,1", "0.5,0,0.6,1", "nan,0,1,1", "0,0,1,inf", "a,b,c,d"],
)
def test_what_is_no_region_is_refused_in_one_line(region):
    with pytest.raises(ValueError, match=r"region is .*, expected full, center, or left,top,width,height"):
        shares(region)
    with pytest.raises(UserError, match=r"--region is .*, such as 0\.25,0,0\.5,1\."):
        from_flat(TrainSettings, {"region": region})


def test_a_picture_is_cut_first_and_scaled_afterwards():
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    how = Preprocessing(32, region="0.25,0,0.5,1")
    cut = np.ascontiguousarray(picture[:, 30:90])
    np.testing.assert_array_equal(resize(picture, how), resize(cut, Preprocessing(32)))
    np.testing.assert_array_equal(prepare_frame(picture[..., ::-1], how), resize(picture, how))


def test_a_run_keeps_its_region_and_everything_that_asks_it_sees_the_same(tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 12, "green": 12})
    run = vgg_flax.train(
        data=str(photos), region="center", image_size=32, weights="random", views=1, project=tmp_path / "runs"
    )
    predictor = Predictor.load(run)
    assert predictor.preprocessing.region == "center"
    dataset = open_dataset(str(photos))
    decoded = decoded_photos(dataset, look_at(dataset, lambda: None), predictor.preprocessing)
    path = photos / "red" / "003.png"
    row = decoded.names.index("red/003.png")
    cut = cv2.cvtColor(cv2.imread(str(path))[:, 4:44], cv2.COLOR_BGR2RGB)  # of 40 x 48
    seen = resize(cut, Preprocessing(32))
    np.testing.assert_array_equal(decoded.images[row], seen)
    np.testing.assert_array_equal(load_image(path, predictor.preprocessing), seen)
    whole = decoded_photos(dataset, look_at(dataset, lambda: None), Preprocessing(32))
    assert not np.array_equal(whole.images[row], seen), "what is kept of whole pictures is not taken for it"
