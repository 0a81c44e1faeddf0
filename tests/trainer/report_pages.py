"""Readers of a run's page."""

import html
import re

from tests.pages import Page
from trainer.reporting.load import load_report
from trainer.reporting.page import render


def read_page(directory) -> Page:
    """Renders the page of a workdir."""
    return Page(render(load_report(str(directory))))


def rows(text: str, caption: str) -> list[list[str]]:
    """The rows of the table with that caption, the words of each cell."""
    tables = re.findall(r"<table.*?</table>", text, re.S)
    table = next(table for table in tables if caption in html.unescape(table))
    return [
        [
            " ".join(re.sub(r"<[^>]*>", " ", cell).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in re.findall(r"<tr.*?</tr>", table, re.S)
    ]


def titles(directory) -> str:
    found = re.findall(r'<li class="warning"><b>⚠ (.*?)</b>', render(load_report(str(directory))))
    return "; ".join(found)


def advice(directory, title: str) -> str:
    """The text of the warning, or of the note of a missing part, with that title."""
    page = render(load_report(str(directory)))
    (found,) = [item for item in re.findall(r"<li[^>]*>(.*?)</li>", page, re.S) if title in item]
    without_code = re.sub(r"</?(?:code|span)[^>]*>", "", found)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without_code)).split())
