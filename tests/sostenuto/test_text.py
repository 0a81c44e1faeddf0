import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.text import cells, file_size, labelled, printable, shorten, table


def test_columns_are_aligned():
    lines = table(("file", "notes"), [("a.mid", "7"), ("long name.mid", "12,345")], align="<>", width=None)
    assert lines == ["file            notes", "a.mid               7", "long name.mid  12,345"]


def test_the_widest_column_of_words_is_shortened_and_numbers_never():
    rows = [("1,234,567", "a" * 30 + "z.mid", "short"), ("1", "b.mid", "short")]
    lines = table(("notes", "file", "split"), rows, align="><<", width=40)
    assert lines[1].startswith("1,234,567  aaa")
    assert lines[1].endswith("z.mid  short")
    assert max(map(cells, lines)) == 40


def test_the_text_of_a_label_is_wrapped_in_its_column():
    lines = labelled([("notes", "one two three four five six"), ("tempo", "120")], width=20)
    assert lines == ["notes  one two three", "       four five six", "tempo  120"]
    assert labelled([("notes", "one two three four")], width=None) == ["notes  one two three four"]


@given(st.text(max_size=60), st.integers(1, 50))
def test_a_shortened_text_fits_and_keeps_both_ends(text, width):
    short = shorten(text, width)
    assert cells(short) <= max(width, 1)
    if cells(text) <= width:
        assert short == text
    else:
        head, _, tail = short.rpartition("…")
        assert text.startswith(head)
        assert text.endswith(tail)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (3_496, "3.5 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (56_300_000, "56.3 MB"),
        (1_234_560_000_000, "1,234.56 GB"),
    ],
)
def test_a_size_has_a_unit_that_fits(count, text):
    assert file_size(count) == text


def test_wide_and_combining_characters_count_as_a_terminal_shows_them():
    assert (cells("abc"), cells("月光"), cells("é")) == (3, 4, 1)
    first, second = table(("名", "n"), [("月光", "1")], align="<>", width=None)
    assert cells(first) == cells(second)


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\x07bell", "a\u202eb", "odd \udc80 byte", "\x9b2J"])
def test_control_characters_of_a_name_are_replaced(text):
    assert len(printable(text)) == len(text)
    assert "?" in printable(text)
    assert printable(text).encode()
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in printable(text))


def test_names_in_any_script_stay_as_they_are():
    assert printable("Étude №3 – 月光.mid") == "Étude №3 – 月光.mid"
