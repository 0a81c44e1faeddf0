"""Piano rolls: a bar for each note, classed by velocity."""

import re

import numpy as np

from sostenuto.html.piano_roll import piano_roll
from sostenuto.music.notes import Notes
from tests.pages import Page

NOTES = Notes.from_onsets(
    [60, 64, 67, 72],
    [0, 500_000, 1_000_000, 2_000_000],
    [400_000, 900_000, 1_001_000, 4_000_000],
    [1, 40, 100, 127],
)


def test_each_note_is_a_bar_of_its_velocity_and_its_part() -> None:
    roll = piano_roll(NOTES, np.arange(4) < 2, description="four notes")
    page = Page(roll)
    kinds = [path["class"] for path in page.all("path") if path["class"] != "black"]
    assert kinds == ["primer v0", "primer v1", "played v3"]
    (played,) = re.findall(r'd="([^"]*)" class="played v3"', roll)
    # 10 ms a unit: the third note is lengthened to be seen.
    assert re.findall(r"M(\d+) \d+h(\d+)", played) == [("100", "6"), ("200", "200")]
    assert page.all("svg")[0]["aria-label"] == "four notes"
    (sheet,) = page.all("div", **{"class": "sheet"})
    assert (sheet["data-low"], sheet["data-high"], sheet["data-seconds"]) == ("60", "84", "4.000")
    assert len(page.all("line", **{"class": "seam"})) == 1


def test_a_generated_note_that_sorts_before_the_primers_last_one_is_no_primer() -> None:
    chord = Notes.from_onsets([40, 60, 64, 72], [0, 0, 0, 900_000], [400_000, 400_000, 400_000, 1_400_000], [64] * 4)
    roll = piano_roll(chord, np.array([False, True, True, False]), description="a chord")
    counts = {kind: d.count("M") for d, kind in re.findall(r'd="([^"]*)" class="(primer|played) v2"', roll)}
    assert counts == {"primer": 2, "played": 2}
    (played,) = re.findall(r'd="([^"]*)" class="played v2"', roll)
    assert [start for start, _ in re.findall(r"M(\d+) (\d+)", played)] == ["0", "90"]


def test_without_a_primer_there_is_no_seam() -> None:
    page = Page(piano_roll(NOTES, np.zeros(4, bool), description="four notes"))
    assert page.all("line", **{"class": "seam"}) == []
    assert "0:00" in page.words
