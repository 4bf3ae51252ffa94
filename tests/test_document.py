import base64
import os
import re
import shutil
from html.parser import HTMLParser

import pytest
from helpers import read_files, write_nothing

from analysis import style
from analysis.document import Document, read_contents, render_page

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


def test_no_line_breaks_within_a_flag_or_a_date(folder):
    words = "train.py --lr-step-size 3 'a <b>' --flip 2026-01-31"
    shown = "train.py <span>--lr-step-size</span> 3 &#x27;a &lt;b&gt;&#x27; <span>--flip</span> <span>2026-01-31</span>"
    html = render_page(f"# T\n\n`{words}`\n\n| settings |\n| --- |\n| {words} |\n", folder)
    assert f"<code>{shown}</code>" in html
    assert f"<td>{shown}</td>" in html
    assert "span { white-space: nowrap; }" in html


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


def test_a_page_that_figures_would_make_too_long_is_not_rendered(folder):
    (folder / "figures" / "small.png").write_bytes(b"123")
    twice = "# T\n\n" + "![x](figures/small.png)\n\n" * 2  # each has four characters in the page
    assert render_page(twice, folder, longest=8) == render_page(twice, folder)
    with pytest.raises(ValueError, match="its figures have more than 7 characters"):
        render_page(twice, folder, longest=7)


# ---------------------------------------------------------------------------------------------------------------------
# Reports that are stopped


def make_document(text, *figures, draw=lambda: None):
    document = Document()
    document.say(f"# {text}")
    for name in figures:
        document.add_figure(name, "Loss", draw)
    return document


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_report_that_is_stopped_while_it_draws_leaves_the_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    make_document("First", "old").write(tmp_path)
    before = read_files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make_document("Second", "new", draw=interrupt).write(tmp_path)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("listed", [b"introduction.md\n", b"introduction.md\n\n", b"introduction.md\0\n", b"\xff", b""])
def test_a_folder_with_a_list_of_somebody_elses_files_is_refused_and_keeps_them(listed, tmp_path):
    (tmp_path / "contents.txt").write_bytes(listed)
    (tmp_path / "introduction.md").write_text("Mine.")
    before = read_files(tmp_path)
    with pytest.raises(FileExistsError, match=r"its contents\.txt is not that of a report"):
        make_document("First", "old").write(tmp_path)
    assert read_files(tmp_path) == before


def test_a_blank_line_in_the_list_of_a_reports_files_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    make_document("First", "old").write(tmp_path)
    (tmp_path / "contents.txt").write_text((tmp_path / "contents.txt").read_text() + "\n")
    make_document("Second", "new").write(tmp_path)
    assert (tmp_path / "report.md").read_text().startswith("# Second")


@pytest.mark.parametrize("moved", range(4))
def test_a_report_that_is_killed_while_it_is_put_in_place_is_replaced_by_the_next(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", write_nothing)
    make_document("First", "old").write(tmp_path)
    (tmp_path / "figures" / "own.png").write_bytes(b"")
    with monkeypatch.context() as killed:
        left, replace = [interrupt, *[os.replace] * (moved + 1)], os.replace  # the first writes contents.txt
        killed.setattr(os, "replace", lambda *paths: left.pop()(*paths) if left else replace(*paths))
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill leaves the workshop, too
        with pytest.raises(KeyboardInterrupt):
            make_document("Second", "new").write(tmp_path)
    here = {path.as_posix() for path in read_files(tmp_path)}
    unlisted = {name for name in here - read_contents(tmp_path) if not name.startswith(".unfinished-report")}
    assert unlisted == {"contents.txt", "figures/own.png"}
    make_document("Third", "other").write(tmp_path)
    kept = {"report.md", "report.html", "figures/other.png", "figures/other.pdf", "contents.txt", "figures/own.png"}
    assert {path.as_posix() for path in read_files(tmp_path)} == kept
    assert (tmp_path / "report.md").read_text().startswith("# Third")
    assert not list(tmp_path.glob(".*"))
