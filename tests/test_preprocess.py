"""Pictures as people have them -> uint8 RGB, or a reason why not."""

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from vgg_flax.data.decode import decode, load_image, read_bytes
from vgg_flax.errors import BadImage
from vgg_flax.network.preprocess import normalize, prepare_frame, resize
from vgg_flax.network.spec import Preprocessing

RED = (200, 30, 40)


def encode(suffix, image, *options):
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def red(height=24, width=32):
    return np.full((height, width, 3), RED[::-1], np.uint8)  # BGR, as OpenCV writes it


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".avif", ".ppm"])
def test_formats_come_out_as_rgb(suffix):
    image = decode(encode(suffix, red()))
    assert image.shape == (24, 32, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3).mean(0), RED, atol=8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # only the top left quarter is white
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = undo[orientation](upright)
    plain = encode(".jpg", np.ascontiguousarray(stored), cv2.IMWRITE_JPEG_QUALITY, 95)
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    image = decode(data)
    assert image.shape == (32, 48, 3)
    assert image[4, 4].mean() > 230 and image[4, 40].mean() < 25 and image[28, 4].mean() < 25


def test_grey_alpha_and_16_bit_pictures():
    grey = decode(encode(".png", np.full((8, 8), 77, np.uint8)))
    assert (grey == 77).all() and grey.shape == (8, 8, 3)
    deep = decode(encode(".png", np.full((8, 8, 3), 128 * 257, np.uint16)))
    assert (deep == 128).all()
    layered = np.zeros((8, 8, 4), np.uint8)
    layered[:, :4] = (0, 0, 255, 255)  # left half opaque red, right half black under full transparency
    shown = decode(encode(".png", layered))
    assert (shown[:, :4] == (255, 0, 0)).all() and (shown[:, 4:] == 255).all()


def test_palette_pictures_and_cmyk_jpegs():
    from PIL import Image

    for mode, suffix in (("P", "PNG"), ("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG")):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 24), (255, 255, 255)).convert(mode).save(buffer, suffix)
        assert decode(buffer.getvalue()).mean() > 250, mode


def bomb():
    """A PNG header that claims 50,000 x 50,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


BAD = {
    "empty": (b"", "empty file"),
    "html": (b"<!doctype html><html>not found</html>", "HTML"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "cut jpeg": (encode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[:1500], "truncated"),
    "cut png": (encode(".png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[:1500], "truncated"),
    "bytes": (bytes(range(7, 207)), "not a picture"),
    "bomb": (bomb(), "."),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_pictures_are_refused_with_the_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


MODULES = ["data.decode", "live.window", "commands.webcam", "network.model", "answers.predictor"]


@pytest.mark.parametrize("first", ["weights_convert", *(f"vgg_flax.{name}" for name in MODULES)])
def test_a_small_jpeg_may_not_claim_over_100_megapixels_whatever_is_imported_first(first):
    honest = encode(".jpg", np.zeros((64, 64, 3), np.uint8))
    start = honest.index(b"\xff\xc0")
    lie = honest[: start + 5] + struct.pack(">HH", 10_001, 10_000) + honest[start + 9 :]
    # In a process of its own: OpenCV takes its limit from the environment when it is first imported.
    code = f"import sys, {first}; from vgg_flax.data.decode import decode; decode(sys.stdin.buffer.read())"
    answer = subprocess.run([sys.executable, "-c", code], input=lie, capture_output=True)
    assert b"BadImage" in answer.stderr.splitlines()[-1]
    assert b"refused by the decoder" in answer.stderr.splitlines()[-1], "not for the pixels that it lacks"


def test_folders_and_missing_files_are_no_pictures(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(BadImage, match="not a regular file"):
        read_bytes(tmp_path / "x.jpg")
    with pytest.raises(BadImage, match="no such file"):
        read_bytes(tmp_path / "y.jpg")


def test_a_frame_and_a_file_of_the_same_pixels_give_the_same_input(tmp_path):
    frame = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    (tmp_path / "ünï 写真.png").write_bytes(encode(".png", frame))
    record = Preprocessing(32)
    np.testing.assert_array_equal(load_image(tmp_path / "ünï 写真.png", record), prepare_frame(frame, record))


def test_resize_squashes_both_sides():
    tall = np.zeros((90, 30, 3), np.uint8)
    tall[:45] = 255
    small = resize(tall, Preprocessing(32))
    assert small.shape == (32, 32, 3)
    assert small[:15].min() == 255 and small[17:].max() == 0


def test_normalize_is_rgb_minus_mean_over_std():
    record = Preprocessing(32, mean=(10, 20, 30), std=(2, 4, 5))
    pixel = np.array([[[[12, 28, 40]]]], np.uint8)
    result = normalize(pixel, record)
    np.testing.assert_array_equal(result, [[[[1, 2, 2]]]])
    assert result.dtype == np.float32


@pytest.mark.parametrize("wrong", [{"std": (1, 0, 1)}, {"mean": (1, 2)}, {"resize": "crop"}])
def test_a_record_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Preprocessing(32, **wrong)
