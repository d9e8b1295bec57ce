"""doctor.html without a browser: every finding with its photos, in the doctor's order, and no name becomes markup."""

import csv
import re

import pages
import pytest

from vgg_flax.report import doctor


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return pages.write_doctor(tmp_path_factory.mktemp("doctor"), pages.predictions())


@pytest.fixture(scope="module")
def found(written):
    return pages.read(written)


def test_names_never_become_markup_and_nothing_is_asked_for(written, found):
    assert {tag for tag, _ in found.tags} & {"script", "iframe", "object", "form", "link"} == {"link"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag != "img" or attributes["src"].startswith("data:image/jpeg;base64,")
    assert pages.ATTACK in found.text
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:|//)", written.read_text(encoding="utf-8"))


def test_the_list_is_the_doctors_and_each_finding_has_its_words_and_its_table(written, found):
    ranked = pages.findings(pages.predictions()).ranked
    kinds = [one.kind for one in ranked]
    assert [a["href"] for tag, a in found.tags if tag == "a" and a["href"][0] == "#"] == [f"#{kind}" for kind in kinds]
    assert [a["id"] for tag, a in found.tags if tag == "section" and a.get("id", "photos") != "photos"] == kinds
    links = {a["href"] for tag, a in found.tags if tag == "a" and a["href"][0] != "#"}
    assert links == {*(one.file for one in ranked), "files.csv", "clues.csv", "doctor.json"}
    assert all((written.parent / link).is_file() for link in links)
    for one in ranked:
        assert one.text in found.text and found.text.count(one.advice) == 2
    assert "Something new" in found.text and "looks like class 2 (98.7" in found.text
    assert "< 0.001" in found.text and "6 more and all of these as a table" in found.text


def test_photos_stand_beside_what_they_are_compared_with(found):
    table = pages.predictions()
    alts = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    groups = 2 * doctor.PER_GROUP + 2 + doctor.MOST  # of copies twice, exact copies, wrong labels
    assert len(alts) == groups + 1, "an outlier that is gone has no picture, its neighbour has"
    assert alts[-1] == table.names[2] and found.text.count("and 2 more") == 2
    assert alts[:2] == [table.names[0], table.names[1]], "of a group first what lies in different splits"


def test_nothing_found_is_said(tmp_path):
    table = pages.predictions()
    found = pages.findings(table)
    path = doctor.write(tmp_path, type(found)(found.source, found.summary, found.tables, ()), pages.dataset_of(table))
    assert "Nothing wrong was found in 60 photos" in pages.read(path).text


def test_names_that_are_no_text_are_shown_as_far_as_they_are(tmp_path):
    table = pages.predictions()
    table.names[0] = "odd\udcff.jpg"
    found = pages.read(pages.write_doctor(tmp_path, table))
    assert "odd\N{REPLACEMENT CHARACTER}.jpg" in found.text and (tmp_path / "wrong_labels.csv").is_file()


def test_a_page_is_left_by_the_verb_with_every_table_that_it_names(tmp_path, cache):
    from test_doctor import look, write_scenes

    tables, _ = look(write_scenes(tmp_path / "scenes", 8), tmp_path)
    run = tmp_path / "runs" / "doctor"
    links = {a["href"] for tag, a in pages.read(run / doctor.NAME).tags if tag == "a" and a["href"].endswith(".csv")}
    assert links == {f"{name}.csv" for name in tables} and not list(run.glob("*.png"))
    for link in links:
        assert next(csv.reader((run / link).read_text().splitlines()))
