"""Oracle: an HTML parser. Whatever is typed, only our elements come out, and the text that was typed."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paribus.report.prose import inline, paragraphs

ELEMENTS = {"p", "ul", "li", "strong", "em", "code", "sub", "sup", "a"}
MARKUP = st.lists(
    st.sampled_from(
        [
            "<script>",
            "</p>",
            '"',
            "'",
            "&amp;",
            "**",
            "*",
            "`",
            "~",
            "^",
            "[a](",
            "javascript:x",
            ")",
            "](#b)",
            "[",
            "a b",
            "\n\n",
            "\n- ",
        ]
    )
).map("".join)


class Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(st.one_of(st.text(), MARKUP))
def test_no_text_becomes_an_element_or_attribute_of_its_own(text: str):
    seen = Seen(str(paragraphs(text)))
    assert {tag for tag, _ in seen.elements} <= ELEMENTS
    assert not seen.open
    for tag, attributes in seen.elements:
        assert set(attributes) == ({"href"} if tag == "a" else set())
        assert tag != "a" or str(attributes["href"]).startswith(("https://", "http://", "#"))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**XE** at *K*", "<strong>XE</strong> at <em>K</em>"),
        ("c + a t^−b^, E~t~", "c + a t<sup>−b</sup>, E<sub>t</sub>"),
        ("`a*b*c`", "<code>a*b*c</code>"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("[site](https://a.org/b) and [top](#top)", '<a href="https://a.org/b">site</a> and <a href="#top">top</a>'),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
        ("**a *b* c**", "<strong>a <em>b</em> c</strong>"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("about ~3 of ~4", "about ~3 of ~4"),
    ],
)
def test_each_mark_means_what_it_says(text: str, html: str):
    assert str(inline(text)) == html


def test_blank_lines_part_paragraphs_and_dashes_make_a_list():
    assert str(paragraphs("one\n\n- a\n- b\n\ntwo")) == "<p>one</p>\n<ul><li>a</li><li>b</li></ul>\n<p>two</p>"
