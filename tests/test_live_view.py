"""What a live view looks like: where things stand, what is said, in which colour, at any size and in any script."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from vgg_flax.answers.predictor import Prediction
from vgg_flax.live import text
from vgg_flax.live.capture import Frame
from vgg_flax.live.drawing import DOUBTFUL, GREY, GROUND, STRANGE, SURE, Bar, Picture, Rect, Text
from vgg_flax.live.painter import Painter, shown_region
from vgg_flax.live.panel import Slots, headline, how_sure
from vgg_flax.live.scene import Scene, arrange, natural_size, scene
from vgg_flax.live.state import Answer, Heat, State
from vgg_flax.live.window import dragged
from vgg_flax.network.preprocess import region_of

LONG = "a very long name of a class " * 4
SIZES = [(320, 240), (1280, 720), (3840, 2160), (480, 1200), (1200, 200), (64, 64)]


def state(
    probabilities: list[float],
    verdict: str = "label",
    names: list[str] | None = None,
    size: tuple[int, int] = (480, 640),
    **more: object,
) -> State:
    classes = tuple(names or [f"class {i}" for i in range(len(probabilities))])
    values = np.array(probabilities, np.float32)
    best = int(values.argmax())
    nearest = tuple(f"{i}.jpg" for i in range(5))
    prediction = Prediction(classes[best], float(values[best]), values, verdict, classes[:2], 1.0, nearest)  # type: ignore[arg-type]
    shown = Frame(3, np.full((*size, 3), 128, np.uint8), 0.0, time.monotonic())
    said = Answer(shown, prediction, prediction, 100.0, 143.0)
    return State("camera 0", "masks", classes, frame=shown, answer=said, **more)  # type: ignore[arg-type]


def laid(one: State, width: int, height: int) -> Scene:
    return scene(one, width, height, Slots(), ("camera 0", "30 pictures/s"))


def words(shown: Scene) -> str:
    return "\n".join(thing.text for thing in (*shown.panel, *shown.badges) if isinstance(thing, Text))


def box(thing: Text | Bar | Picture) -> Rect:
    if isinstance(thing, Text):
        wide = text.width(thing.text, thing.size, thing.bold)
        return Rect(thing.left, thing.baseline - thing.size, wide, thing.size)
    return thing.rect


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("classes", [2, 12, 300])
@pytest.mark.parametrize("frame", [(480, 640), (640, 480), (1, 1), (60, 2000), (2160, 3840)])
def test_the_panel_never_lies_on_the_picture_and_nothing_leaves_the_view(width, height, classes, frame):
    share = [1 / classes] * classes
    one = state(share, "unsure", [f"{i} {LONG}" for i in range(classes)], frame, nearest=True)
    shown = laid(one, width, height)
    picture, panel = arrange(width, height, (frame[1], frame[0]), classes)
    assert shown.picture == picture
    assert picture.right <= panel.left or picture.bottom <= panel.top
    assert panel.right <= width and panel.bottom <= height
    for thing in shown.panel if min(width, height) >= 200 else ():
        place = box(thing)
        assert panel.left <= place.left and place.right <= panel.right + 2, thing
        assert panel.top <= place.top + 2 and place.bottom <= panel.bottom + 2, thing
    view = Painter().paint(one, width, height)
    assert view.shape == (height, width, 3)


@pytest.mark.parametrize(("width", "height"), SIZES[:3])
def test_the_picture_keeps_its_proportions(width, height):
    for frame in ((480, 640), (640, 480), (100, 400)):
        picture = laid(state([0.9, 0.1], size=frame), width, height).picture
        assert picture.width / picture.height == pytest.approx(frame[1] / frame[0], rel=0.02)


@pytest.mark.parametrize(("width", "height"), SIZES[:3])
def test_text_can_be_read_at_any_size(width, height):
    shown = laid(state([0.05] * 12 + [0.4]), width, height)
    sizes = [thing.size for thing in shown.panel if isinstance(thing, Text)]
    assert min(sizes) >= max(11, height / 60)


@pytest.mark.parametrize(("verdict", "said", "colour"), [
    ("label", "class 0", SURE),
    ("unsure", "not sure: class 0 or class 1", DOUBTFUL),
    ("unlike", "unlike the training photos", STRANGE),
])  # fmt: skip
def test_a_verdict_is_said_in_words_and_in_its_colour(verdict, said, colour):
    one = state([0.99, 0.01], verdict)
    assert headline(one)[::2] == (said, colour)
    assert ("99.0 %" in headline(one)[1]) == (verdict == "label"), "a percentage is said of plain labels only"
    view = Painter().paint(one, 1280, 720)
    assert (view == colour).all(-1).any()
    assert f"   {said}   " in one.summary()


def test_twenty_two_percent_never_looks_like_ninety_nine():
    assert how_sure(0.22) == how_sure(0.5) == DOUBTFUL
    assert how_sure(0.99) == how_sure(0.95) == SURE
    assert how_sure(0.7) not in (DOUBTFUL, SURE)

    def bars(one: State) -> tuple[int, tuple[int, ...]]:
        filled = [thing for thing in laid(one, 1280, 720).panel if isinstance(thing, Bar)]
        widest = max((thing for thing in filled if thing.colour != (74, 70, 68)), key=lambda thing: thing.rect.width)
        return widest.rect.width, widest.colour

    low, high = bars(state([0.22, 0.2, 0.2, 0.19, 0.19])), bars(state([0.99, 0.01, 0, 0, 0]))
    assert low[0] < 0.3 * high[0] and low[1] != high[1]


def test_two_classes_share_one_bar():
    shown = laid(state([0.75, 0.25]), 1280, 720)
    bars = [thing for thing in shown.panel if isinstance(thing, Bar)]
    assert len(bars) == 2 and bars[1].rect.width == pytest.approx(0.75 * bars[0].rect.width, abs=1)
    assert bars[1].rect.left == bars[0].rect.left
    other = [thing for thing in laid(state([0.25, 0.75]), 1280, 720).panel if isinstance(thing, Bar)]
    assert other[1].rect.right == other[0].rect.right and other[1].rect.width == bars[1].rect.width


def test_rows_keep_their_place():
    slots = Slots()
    assert slots([0.1, 0.7, 0.2], 5) == [0, 1, 2]
    first = slots([0.4, 0.3, 0.2, 0.05, 0.05], 3)
    assert first == [0, 1, 2]
    assert slots([0.2, 0.3, 0.4, 0.05, 0.05], 3) == first, "another order of the same classes moves none"
    assert slots([0.2, 0.05, 0.4, 0.3, 0.05], 3) == [0, 3, 2], "one that comes takes the place of the one that goes"
    assert slots([0.2, 0.05, 0.4, 0.3, 0.05], 1) == [2]


def test_names_stand_in_full_where_there_is_room():
    names = ["with_mask", "without_mask"]
    unsure = words(laid(state([0.6, 0.4], "unsure", names), 1280, 720))
    assert "not sure: with_mask or without_mask" in unsure.replace("\n", " ")
    for width, height in SIZES[:3]:
        shown = words(laid(state([0.6, 0.4], "label", names), width, height))
        assert "with_mask" in shown and "without_mask" in shown


def test_switches_and_troubles_are_said_on_the_picture():
    one = state([0.9, 0.1], paused=True, recording=True, hint="too dark")
    for word in ("paused", "recording", "too dark"):
        assert word in words(laid(one, 1280, 720))
    silent = dataclasses.replace(one, answer=None, trouble="no signal: connection refused")
    assert "no signal: connection refused" in words(laid(silent, 1280, 720))
    assert "class 0" in words(laid(silent, 1280, 720)), "classes stay, their bars are empty"
    assert not (Painter().paint(silent, 1280, 720) == SURE).all(-1).any()
    keys = words(laid(dataclasses.replace(one, help=True), 1280, 720))
    assert all(key in keys for key in ("quit", "pause", "record", "mirror", "nearest training photos"))
    notice = dataclasses.replace(one, notice=("kept as a.png", time.monotonic() + 9))
    assert "kept as a.png" in words(laid(notice, 1280, 720))


def test_a_mirrored_view_reads_as_a_plain_one_and_only_the_picture_is_turned():
    one = state([0.9, 0.1])
    assert one.frame is not None
    one.frame.image[:, :200] = 255  # white on the left
    plain = Painter().paint(one, 1280, 480)
    mirrored = Painter().paint(dataclasses.replace(one, mirror=True), 1280, 480)
    picture = laid(one, 1280, 480).picture
    np.testing.assert_array_equal(plain[:, picture.right :], mirrored[:, picture.right :])
    assert plain[300, picture.left + 20, 0] > 200 and mirrored[300, picture.left + 20, 0] < 150
    assert mirrored[300, picture.right - 20, 0] > 200
    assert (one.frame.image[:, :200] == 255).all(), "drawing must not touch the frame"


def test_the_region_is_where_the_model_looks_mirrored_or_not():
    one = state([0.9, 0.1], region="0.1,0.2,0.3,0.4")
    assert shown_region(one) == (0.1, 0.2, 0.3, 0.4)
    np.testing.assert_allclose(shown_region(dataclasses.replace(one, mirror=True)), (0.6, 0.2, 0.3, 0.4))
    centre = dataclasses.replace(one, region="center")
    np.testing.assert_allclose(shown_region(centre), (0.125, 0, 0.75, 1))
    shown = Painter()
    view = shown.paint(one, 1280, 480)
    assert shown.scene is not None
    left, top, width, height = shown.scene.picture
    corner = (left + round(0.1 * width), top + round(0.2 * height))
    assert (view[corner[1], corner[0] : corner[0] + 50] > 200).all(), "it is drawn"


def test_what_is_dragged_becomes_the_region_and_a_click_does_not():
    picture = (100, 50, 640, 480)
    assert dragged((164, 98), (420, 290), picture, mirror=False) == "0.100,0.100,0.400,0.400"
    assert dragged((420, 290), (164, 98), picture, mirror=False) == "0.100,0.100,0.400,0.400"
    assert dragged((164, 98), (420, 290), picture, mirror=True) == "0.500,0.100,0.400,0.400"
    assert dragged((0, 0), (2000, 2000), picture, mirror=False) == "0.000,0.000,1.000,1.000"
    assert dragged((200, 200), (205, 400), picture, mirror=False) == ""
    assert region_of("0.500,0.100,0.400,0.400", 480, 640) == (320, 48, 256, 192)


def test_evidence_colours_where_the_class_is_seen():
    values = np.zeros((112, 112), np.float32)
    values[:, :56] = 1.0
    one = state([0.9, 0.1], evidence=True, heat=Heat("class 0", values))
    plain = Painter().paint(dataclasses.replace(one, evidence=False), 1280, 480)
    warm = Painter().paint(one, 1280, 480)
    picture = laid(one, 1280, 480).picture
    changed = np.abs(plain.astype(int) - warm).sum(-1)[100:, picture.left : picture.right]
    assert changed[:, : picture.width // 2 - 20].mean() > 30 and changed[:, picture.width // 2 + 20 :].mean() < 2
    assert "seen: class 0" in words(laid(one, 1280, 480))


def test_the_nearest_training_photos_stand_beside_the_picture():
    asked: list[str] = []

    def album(name: str) -> np.ndarray | None:
        asked.append(name)
        return None if name == "0.jpg" else np.full((60, 90, 3), (0, 0, 255), np.uint8)

    view = Painter(album).paint(state([0.9, 0.1], nearest=True), 1280, 720)
    assert asked == [f"{i}.jpg" for i in range(5)]
    assert (view == (0, 0, 255)).all(-1).sum() > 4 * 1000


def test_a_model_that_does_not_know_its_photos_says_so():
    one = state([0.9, 0.1], nearest=True)
    assert one.answer is not None
    prediction = dataclasses.replace(one.answer.prediction, nearest=())
    unknown = dataclasses.replace(one, answer=dataclasses.replace(one.answer, prediction=prediction))
    assert "training photos unknown" in words(laid(unknown, 1280, 720))
    assert "training photos unknown" not in words(laid(one, 1280, 720))


def test_a_view_is_as_large_as_the_frame_needs():
    assert natural_size(640, 480, 2)[1] == 480
    for width, height in ((640, 480), (3840, 2160), (1, 1), (37, 26), (60, 2000)):
        size = natural_size(width, height, 12)
        assert size[0] % 2 == size[1] % 2 == 0, "video codecs want even sides"
        assert max(size) <= 1800 and min(size) >= 160


def test_names_in_any_script_are_never_question_marks():
    for name in ("cat 🐱", "日本", "한국어", "Ärger", "हिन्दी", "العربية", "👍🏽", "ไทย", "Ελληνικά", "a\u0301"):
        assert "?" not in text.drawable(name), name
        assert text.width(name, 20) > 0
    assert text.drawable("cat 🐱") == "cat (cat face)"
    assert text.drawable("שלום") == "םולש", "letters are drawn from left to right, this word is read the other way"
    assert text.drawable("why?") == "why?"


def test_bytes_that_are_no_text_are_question_marks():
    assert text.drawable("a\udcffb\n") == "a?b?", "OpenCV would crash"


@pytest.mark.parametrize("nearest", [False, True])
def test_in_a_low_panel_nothing_lies_on_the_figures(nearest):
    names = ["without a mask on the face", "with a mask on the face"]
    photos = [(f"{i}.jpg", np.zeros((9, 9, 3), np.uint8)) for i in range(5 * nearest)]
    shown = scene(state([0.75, 0.25], names=names), 320, 240, Slots(), ("camera 0", "30 pictures/s"), photos)
    figures = box(next(thing for thing in shown.panel if isinstance(thing, Text) and "camera" in thing.text))
    others = [box(thing) for thing in shown.panel if box(thing) != figures]
    assert max(one.bottom for one in others) <= figures.top + 2


def test_a_name_of_any_length_is_measured_a_few_times_only(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(text, "width", lambda text, *_: asked.append(text) or 10 * len(text))  # type: ignore[func-returns-value]
    name = "".join(map(str, range(5000)))
    for _ in range(3):
        assert text.shorten(name, 100, 20) == "012345\u2026999"
    assert len(asked) < 20


def test_long_text_is_wrapped_and_shortened_to_its_room():
    assert text.shorten("short", 500, 20) == "short"
    for room in (20, 60, 200):
        for line in (text.shorten(LONG, room, 20), *text.wrap(LONG, room, 20, lines=3)):
            assert text.width(line, 20) <= room or line == "…"
    kept = text.shorten("a_class_with_a_long_name_2", 180, 20)
    assert kept.startswith("a_class") and kept.endswith("2"), "names often differ at their end"


def test_colours_can_be_told_from_their_ground():
    def luminance(colour: tuple[int, int, int]) -> float:
        """Relative luminance of WCAG 2.2, of BGR."""
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    for colour in (SURE, DOUBTFUL, STRANGE, GREY):
        assert (luminance(colour) + 0.05) / (luminance(GROUND) + 0.05) >= 4.5
