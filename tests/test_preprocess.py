"""Pictures as people have them -> uint8 RGB, or a reason why not."""

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from vgg_flax.data.decode import decode, decode_with_depth, load_image, read_bytes, short_side
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


UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # only the top left quarter is white
    stored = UNDO[orientation](upright)
    plain = encode(".jpg", np.ascontiguousarray(stored), cv2.IMWRITE_JPEG_QUALITY, 95)
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    image = decode(data)
    assert image.shape == (32, 48, 3)
    assert image[4, 4].mean() > 230 and image[4, 40].mean() < 25 and image[28, 4].mean() < 25


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF", "AVIF of OpenCV", "HEIC"])
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_in_every_format_also_to_transparency(form, alpha, orientation):
    upright = np.zeros((32, 48, 4), np.uint8)
    upright[:16, :24, :3] = 255  # only the top left quarter is white,
    upright[..., 3] = 255
    if alpha and form != "TIFF":  # OpenCV gives no transparency of TIFF
        upright[16:, 24:, 3] = 0  # and the bottom right one has no colour
    stored = np.ascontiguousarray(UNDO[orientation](upright))
    data = oriented(stored if alpha else np.ascontiguousarray(stored[..., :3]), form, orientation)
    image = decode(data)
    assert image.shape == (32, 48, 3)
    assert image[4, 4].mean() > 230 and image[4, 40].mean() < 25 and image[28, 4].mean() < 25
    assert (image[28, 44].mean() > 230) == (alpha and form != "TIFF")


def oriented(image, form, orientation):
    """An encoded picture with an EXIF tag."""
    from PIL import Image

    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    if form == "AVIF of OpenCV":
        tag = np.frombuffer(exif.tobytes().removeprefix(b"Exif\0\0"), np.uint8)
        colours = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
        return cv2.imencodeWithMetadata(".avif", colours, [cv2.IMAGE_METADATA_EXIF], [tag])[1].tobytes()
    if form == "HEIC":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.fromarray(image)).save(buffer, exif=exif.tobytes(), quality=95)
    elif form == "TIFF":
        Image.fromarray(image).save(buffer, form, tiffinfo={0x0112: orientation})
    else:
        Image.fromarray(image).save(buffer, form, exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm", ".jp2"])
@pytest.mark.parametrize(
    ("largest", "bits"), [(1023, 10), (1024, 12), (4095, 12), (16383, 14), (16384, 16), (65535, 16)]
)
def test_16_bit_pictures_are_scaled_by_the_depth_of_their_values(suffix, largest, bits):
    deep = np.full((256, 256), largest // 2, np.uint16)
    deep[:128] = largest
    image, depth = decode_with_depth(encode(suffix, deep))
    expected = 255 * np.array([largest, largest // 2]) / (2**bits - 1)
    assert depth == bits and np.abs(image[[10, 200], 10, 0] - expected).max() <= (2 if suffix == ".jp2" else 0.5)
    assert image.dtype == np.uint8 and (image[..., 0] == image[..., 2]).all()


def test_8_bit_pictures_stay_as_they_are_and_floats_are_refused_in_words():
    dark = encode(".png", np.full((8, 8, 3), 3, np.uint8))
    assert decode_with_depth(dark)[1] == 8 and (decode(dark) == 3).all()
    with pytest.raises(BadImage):
        decode(encode(".tiff", np.full((8, 8), 0.5, np.float32)))


def test_transparency_of_avif_is_laid_over_white():
    layered = np.zeros((16, 16, 4), np.uint8)
    layered[:, :8] = (0, 0, 255, 255)
    shown = decode(encode(".avif", layered))
    np.testing.assert_allclose(shown[8, 3], (255, 0, 0), atol=8)
    np.testing.assert_allclose(shown[8, 12], (255, 255, 255), atol=8)


def test_heic_is_read_where_pillow_heif_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    for mode, expected in (("RGB", RED), ("L", (90, 90, 90)), ("RGBA", RED)):
        buffer = io.BytesIO()
        colour = {"RGB": RED, "L": 90, "RGBA": (*RED, 255)}[mode]
        pillow_heif.from_pillow(Image.new(mode, (48, 32), colour)).save(buffer, quality=95)
        image = decode(buffer.getvalue())
        assert image.shape == (32, 48, 3) and image.dtype == np.uint8
        np.testing.assert_allclose(image.reshape(-1, 3).mean(0), expected, atol=8)
        assert short_side(buffer.getvalue()) == 32
    with pytest.raises(BadImage, match="damaged HEIC"):
        decode(buffer.getvalue()[:-60])


def test_heic_without_pillow_heif_names_the_command_that_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = BAD["heic"][0]
    with pytest.raises(BadImage, match=r"pip install 'vgg_flax\[heic\]'"):
        decode(data)
    assert short_side(data) is None


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
