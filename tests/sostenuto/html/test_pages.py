"""Environment of the pages: escaping, missing values, inlined files."""

from pathlib import Path

import jinja2
import pytest

from sostenuto.html.pages import command, environment
from tests.pages import Page
from tests.processes import REPOSITORY

EVIL = '</script><script>alert("x")</script>&\x00'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "own.js").write_text('const pair = { a: "<b>" };\n')
    (tmp_path / "templates" / "own.html.j2").write_text("""
{%- extends "page.html.j2" %}
{% from "macros.html.j2" import legend, row, scrolling, table_head, tile %}
{% block title %}{{ name }}{% endblock %}
{% block script %}{{ inline("own.js") }}{% endblock %}
{% block main %}
<dl>{{ tile(name, 1234567|thousands, 0.5|share) }}</dl>
{{ legend([("best", name)]) }}
{% call scrolling(name) %}
<table>{{ table_head(name, ["", name]) }}{{ row(name, [2|fixed, name], is_best=true) }}</table>
{% endcall %}
<p title="{{ name }}">{{ name ~ "!" }}</p>
{% endblock %}
""")
    return tmp_path


def test_a_page_escapes_names_everywhere_and_inlines_files_as_they_are(directory: Path) -> None:
    text = environment(directory).get_template("own.html.j2").render(name=EVIL)
    page = Page(text)
    shown = EVIL.replace("\x00", "\ufffd")
    assert len(page.all("script")) == 1
    assert "\x00" not in text
    assert page.text.count(shown) == 8
    assert page.all("p", title=shown.split()[0])[0]["title"] == shown
    assert 'const pair = { a: "<b>" };' in text
    assert "--ink:" in text
    assert "default-src 'none'" in text
    assert text.startswith("<!DOCTYPE html>")
    assert {"1,234,567", "50.0%", "2.000"} <= set(page.words.split())


def test_a_value_that_is_missing_is_an_error(directory: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="name"):
        environment(directory).get_template("own.html.j2").render()


def test_a_command_breaks_between_its_words() -> None:
    assert command("sostenuto report --workdir='a <b>'") == (
        '<code class="command"><span>sostenuto</span> <span>report</span> <span>--workdir=&#39;a</span> '
        "<span>&lt;b&gt;&#39;</span></code>"
    )


@pytest.mark.parametrize("package", ["sostenuto/html", "trainer/reporting", "tuning/report"])
def test_no_file_of_a_page_ends_its_element_or_names_a_server(package: str) -> None:
    files = [path for path in (REPOSITORY / package).glob("static/*") if path.suffix in (".css", ".js")]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "</" not in text
        assert "//" not in text.replace("// ", "")
        assert "url(" not in text
