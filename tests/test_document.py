import base64
import re
from html.parser import HTMLParser

import pytest

from analysis.document import Document, render_page

TABLE = "| experiment | test % |\n|:--|--:|\n| L1 & L2 | 99.5 |"


class Elements(HTMLParser):
    """Every element of a page that a parser closes as it was opened: [(name, attributes)]."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a,b=1.png").write_bytes(b"picture")
    return tmp_path


def test_the_summary_is_what_was_said_before_its_end_without_figures():
    document = Document()
    document.say("# Report", "What was found.")
    document.add_figure("curves", "Loss", lambda: pytest.fail("drawn before the document is written"))
    document.say("More.")
    document.end_summary()
    document.say("## Details")
    assert document.summary == "# Report\n\nWhat was found.\n\nMore."
    assert document.text.split("\n\n")[2:4] == ["![Loss](figures/curves.png)", "*Figure 1. Loss.*"]


def test_a_page_is_one_file_with_its_figures_inside(folder):
    html = render_page("# Title <b>\n\n![what it shows](figures/a%2Cb%3D1.png)\n\n" + TABLE, folder)
    elements = Elements(html).found
    (picture,) = [attributes for name, attributes in elements if name == "img"]
    assert picture["alt"] == "what it shows"
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")) == b"picture"
    names = {name for name, _ in elements}
    assert {"main", "h1", "table", "thead", "style"} <= names
    assert not names & {"script", "link", "iframe", "b"}
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import', html)
    assert "<title>Title &lt;b&gt;</title>" in html
    assert "L1 &amp; L2" in html


def test_tables_say_what_their_headers_head_and_can_be_scrolled(folder):
    elements = Elements(render_page("# T\n\n" + TABLE, folder)).found
    assert [attributes["scope"] for name, attributes in elements if name == "th"] == ["col", "col"]
    assert ("div", {"class": "table", "tabindex": "0"}) in elements
    assert [attributes.get("style") for name, attributes in elements if name == "td"] == [
        "text-align:left",
        "text-align:right",
    ]


def test_html_in_the_students_words_is_text(folder):
    html = render_page("# T\n\n<script>alert(1)</script> [x](javascript:alert(1))", folder)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert 'href="javascript' not in html


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "https://example.org/a.png", "figures/a.svg"])
def test_only_the_reports_own_figures_are_embedded(path, folder):
    (folder.parent / "secret.png").write_bytes(b"secret")
    html = render_page(f"# T\n\n![x]({path})", folder)
    assert "base64" not in html
    assert base64.b64encode(b"secret").decode() not in html
