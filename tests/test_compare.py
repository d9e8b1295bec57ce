"""Runs side by side: shared photos by content, an exact test of the difference, and the screen."""

import dataclasses
import json

import numpy as np
import pages
import pytest
from scipy.stats import binom

from vgg_flax.answers.predictions import Predictions
from vgg_flax.commands import report
from vgg_flax.errors import UserError
from vgg_flax.insight import compare
from vgg_flax.insight.coverage import coverage_curve
from vgg_flax.settings import ReportSettings
from vgg_flax.training import runs as run_folders


def table(contents, labels, answers, classes="abc"):
    """Photos called by a letter each, of classes called by a letter each."""
    labels, count = np.array([classes.index(one) for one in labels], np.int32), len(contents)
    logits = np.eye(len(classes), dtype=np.float32)[[classes.index(one) for one in answers]]
    contents, names = np.array(list(contents)), np.array([f"{one}.jpg" for one in contents])
    unknown = np.full(count, np.nan), np.full((count, 5), -1), np.array([], str)
    rows = names, contents, np.full(count, "test"), labels, logits, np.full(count, -1), *unknown
    return Predictions(np.array(list(classes)), *rows, np.array(False))


def test_photos_are_matched_by_content_and_classes_by_name():
    first = table("stuvwx", "abcabc", "abbaac")
    second = table("xwzvut", "cbcacb", "cbcacb", classes="cba")
    shared = compare.share([first, second])
    assert shared.names.tolist() == [f"{one}.jpg" for one in "tuvwx"] and shared.contested == 0
    assert shared.truths.tolist() == list("bcabc")
    assert shared.answers.T.tolist() == [list("bbaac"), list("bcabc")]
    assert shared.differ.tolist() == [1, 3]
    [pair] = compare.pairs(shared)
    assert (pair.only_first, pair.only_second) == (0, 2) and pair.p == 0.5


def test_photos_under_other_classes_and_copies_are_not_counted_twice():
    first, second = table("aabc", "aabc", "aaaa"), table("abc", "acc", "acc")
    shared = compare.share([first, second])
    assert shared.names.tolist() == ["a.jpg", "c.jpg"] and shared.contested == 1


def test_runs_without_a_common_photo_are_compared_by_nothing():
    shared = compare.share([table("ab", "ab", "ab"), table("cd", "ab", "ab")])
    assert len(shared.names) == 0 and compare.pairs(shared) == []


@pytest.mark.parametrize(("only", "other"), [(0, 1), (5, 5), (1, 9), (2, 14), (30, 12)])
def test_p_is_that_of_a_fair_coin(only, other):
    truth = "a" * (only + other + 10)
    first = table([str(i) for i in range(len(truth))], truth, "a" * only + "b" * other + "a" * 10)
    second = table([str(i) for i in range(len(truth))], truth, "b" * only + "a" * other + "a" * 10)
    [pair] = compare.pairs(compare.share([first, second]))
    assert (pair.only_first, pair.only_second) == (only, other)
    expected = min(1.0, 2 * binom.cdf(min(only, other), only + other, 0.5))  # by hand; the coin is symmetric
    assert pair.p == pytest.approx(expected)
    chance = "can be chance" in compare.in_words(pair, ["x", "y"])
    assert chance == (expected > 0.05)


def test_three_runs_give_three_pairs():
    tables = [table("abc", "abc", answers) for answers in ("abc", "aaa", "abb")]
    assert [(one.first, one.second) for one in compare.pairs(compare.share(tables))] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        (
            [0.01, 0.04, 0.03, 0.005],
            [0.03, 0.06, 0.06, 0.02],
        ),  # 3 x 0.01, 1 x 0.04 but no less than 2 x 0.03, 4 x 0.005
        ([0.02, 0.02, 0.5], [0.06, 0.06, 0.5]),
        ([0.4, 0.6], [0.8, 0.8]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(ps, expected):
    assert compare.holm(ps) == pytest.approx(expected)


def test_what_is_chance_among_many_comparisons_is_called_that():
    """Alone, 6 to 0 is p = 0.031; beside two comparisons of equals it is three times that."""
    truth, ids = "a" * 20, [str(i) for i in range(20)]
    better, worse = table(ids, truth, truth), table(ids, truth, "b" * 6 + "a" * 14)
    [alone] = compare.pairs(compare.share([better, worse]))
    assert alone.corrected == alone.p == 2 * 0.5**6
    assert (
        "is hardly chance" in compare.all_in_words([alone], "xy")[0] and len(compare.all_in_words([alone], "xy")) == 1
    )
    found = compare.pairs(compare.share([better, worse, better]))
    assert [one.p for one in found] == [2 * 0.5**6, 1.0, 2 * 0.5**6]
    assert [one.corrected for one in found] == [6 * 0.5**6, 1.0, 6 * 0.5**6]
    *sentences, method = compare.all_in_words(found, "xyz")
    assert "can be chance (McNemar's exact test, p = 0.094)" in sentences[0] and "3 comparisons by Holm's" in method


def test_settings_that_are_the_same_are_not_listed():
    assert compare.differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 5}, {"a": 1, "b": 2}]) == {"b": [2, 3, 2]}


def test_coverage_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]], np.float32)
    share, precision = coverage_curve(probabilities, np.array([0, 1, 1, 0]))
    np.testing.assert_allclose(share, [0.25, 0.75, 1.0], err_msg="equal probabilities are answered together")
    np.testing.assert_allclose(precision, [1.0, 2 / 3, 0.75])


def leave(folder, predictions, **settings):
    """What a run leaves, as far as a comparison reads it."""
    folder.mkdir()
    predictions.save(folder / "predictions.npz")
    (folder / "report.json").write_text(json.dumps(pages.report_of(predictions)))
    row = "1,0.5,0.9,0.6,0.8,1,100,1"
    (folder / "metrics.csv").write_text(f"{','.join(run_folders.COLUMNS)}\n{row}\n2{row[1:]}\n")
    settings = {"data": "gone/", "head": "auto", **settings}
    (folder / "config.yaml").write_text(json.dumps({"settings": settings, "python": "3", "versions": {}}))
    return str(folder)


def test_the_screen_and_the_page_compare_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    first = pages.predictions(40, splits=("test",))
    flipped = first.logits.copy()
    flipped[:12] *= -1
    second = dataclasses.replace(first, logits=flipped)
    runs = [leave(tmp_path / "a", first), leave(tmp_path / "b", second, head="mlp")]
    report.main(ReportSettings(runs))
    printed = capsys.readouterr()
    assert "no pictures on the page: --data gone" in printed.err
    for words in ("accuracy", "differing settings", "auto", "mlp", "40 test photos are the same", "McNemar"):
        assert words in printed.out, words
    text = (tmp_path / "comparison.html").read_text()
    assert "<img src=x" not in text and "&lt;img src=x" in text and "is hardly chance" in text


def test_runs_are_told_apart_on_a_narrow_screen(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    some = pages.predictions(40, splits=("test",))
    report.main(ReportSettings([leave(tmp_path / name, some) for name in ("first", "second")]))
    head = capsys.readouterr().out.splitlines()[1]
    assert "first" in head and "second" in head


def test_a_run_beside_an_evaluation_has_only_what_both_can_have(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    some = pages.predictions(40, splits=("test",))
    run, evaluation = leave(tmp_path / "a", some), leave(tmp_path / "b", some)
    (tmp_path / "b" / "config.yaml").unlink()
    (tmp_path / "b" / "report.json").write_text(json.dumps(pages.report_of(some) | {"model": "a"}))
    report.main(ReportSettings([run, evaluation]))
    printed = capsys.readouterr().out
    listed = printed.partition("differing settings")[2].partition("test photos are the same")[0]
    assert "gone/" in listed and "head" not in listed and "None" not in listed


def test_names_of_several_lines_stay_on_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    first = pages.predictions(40, splits=("test",))
    first = dataclasses.replace(first, names=np.array([f"{i}\n\x1b[31m.jpg" for i in range(40)]))
    second = dataclasses.replace(first, logits=-first.logits)
    report.main(ReportSettings([leave(tmp_path / "a\nb", first), leave(tmp_path / "c", second)]))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "0\\n\\x1b[31m.jpg" in printed and "a\\nb" in printed


def test_a_run_whose_photos_are_gone_gets_a_page_that_says_so(tmp_path, capsys):
    folder = leave(tmp_path / "a", pages.predictions(40))
    report.main(ReportSettings([folder]))
    printed = capsys.readouterr()
    assert "no pictures on the page: --data gone" in printed.err and "no heat maps on the page" in printed.err
    assert "Epoch 2 was kept" in (tmp_path / "a" / "report.html").read_text()
    page = tmp_path / "a" / "report.html"
    assert "No pictures: --data gone" in page.read_text()
    page.write_text("with pictures")
    with pytest.raises(UserError, match=r"gone.* is left as it is; say with --data where the photos are now"):
        report.main(ReportSettings([folder]))
    with pytest.raises(UserError, match="nowhere"):
        report.main(ReportSettings([folder], data="nowhere"))
    assert page.read_text() == "with pictures"


def test_no_comparison_replaces_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    some = pages.predictions(40, splits=("test",))
    runs = [leave(tmp_path / "a", some), leave(tmp_path / "b", some)]
    (tmp_path / "comparison.html").write_text("my own notes")
    report.main(ReportSettings(runs))
    assert (tmp_path / "comparison.html").read_text() == "my own notes" and (tmp_path / "comparison2.html").exists()


def test_a_damaged_log_is_one_clear_line(tmp_path):
    folder = leave(tmp_path / "a", pages.predictions(40))
    (tmp_path / "a" / "metrics.csv").write_text("epoch\nx\n")
    with pytest.raises(UserError, match="holds no report that can be read"):
        report.main(ReportSettings([folder]))


@pytest.mark.parametrize(("config", "message"), [("", "holds no report"), ("a: [", "restore it"), ("[1]", "holds no")])
def test_a_damaged_config_is_one_clear_line(tmp_path, config, message):
    folder = leave(tmp_path / "a", pages.predictions(40))
    (tmp_path / "a" / "config.yaml").write_text(config)
    with pytest.raises(UserError, match=message):
        report.main(ReportSettings([folder]))
