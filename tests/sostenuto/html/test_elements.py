"""Elements: escaping and attributes."""

from markupsafe import Markup

from sostenuto.html.elements import clean, element, svg

EVIL = '</svg><script>alert("x")</script>&'


def test_text_and_attributes_are_escaped_and_elements_are_not() -> None:
    inner = element("b", EVIL)
    outer = element("p", "1 < 2 ", inner, title=EVIL)
    assert inner == "<b>&lt;/svg&gt;&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;</b>"
    assert "<script" not in outer
    assert outer.startswith('<p title="&lt;/svg&gt;')
    assert outer.endswith(f">1 &lt; 2 {inner}</p>")


def test_names_of_attributes_are_those_of_html_and_none_is_left_out() -> None:
    line = element("line", None, x1=1.25, x2=3.0, class_="axis", aria_hidden="true", data_key=None)
    assert line == '<line x1="1.2" x2="3" class="axis" aria-hidden="true"></line>'


def test_control_characters_are_replaced() -> None:
    assert clean("a\x00b\x1b[31m\tc\n") == "a\ufffdb\ufffd[31m\tc\n"
    assert element("p", "\x00", title="\x1b") == '<p title="\ufffd">\ufffd</p>'


def test_a_drawing_has_a_description() -> None:
    assert svg(10, 20.5, EVIL, Markup("<g></g>")).startswith('<svg viewBox="0 0 10 20.5" role="img" aria-label="&lt;')
