"""Parser of the HTML pages that commands write."""

import html.parser

VOID = {"meta", "wbr", "br", "link", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """A parsed page; raises AssertionError if an element is not closed in order.

    Attributes:
        elements: (tag, attributes, enclosing tags).
        text: text outside of style and script.
        words: the same with single spaces.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.text += data + " "

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Returns the attributes of all elements of a tag whose attributes start with these words."""
        return [
            element
            for name, element, _ in self.elements
            if name == tag and all((element.get(key) or "").split()[:1] == [value] for key, value in attributes.items())
        ]
