"""The report as a document: Markdown paragraphs, figures and tables, written as report.md and as one HTML page.

document = Document()
document.say("# Report", "What was found.")
document.add_figure("curves", "Loss against the epoch", lambda: plots.plot_curves(histories, styles))
document.write(Path("report"))      # report.md, report.html, figures/curves.png and .pdf, tables/
"""

import base64
import errno
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from itertools import chain, pairwise
from pathlib import Path
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis import style
from analysis.tables import Table, escaped
from engine.files import UNFINISHED, write_whole

CONTENTS = "contents.txt"  # lists the files of a report, so that the next report can remove them
SLIM = (".md", ".png", ".csv")
# HTML elements that have no end tag.
EMPTY_ELEMENTS = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
TEMPLATES = Path(__file__).resolve().parent / "templates"


class Document:
    """The paragraphs of a report in reading order, with its figures, its tables and its opening summary."""

    def __init__(self) -> None:
        self.paragraphs: list[str] = []
        self.figures: dict[str, Callable[[], Figure]] = {}
        self.tables: list[Table] = []
        self.summary = ""
        self._without_figures: list[str] = []

    def say(self, *paragraphs: str) -> None:
        """Append paragraphs of Markdown."""
        self.paragraphs += paragraphs
        self._without_figures += paragraphs

    def add_figure(self, name: str, caption: str, draw: Callable[[], Figure]) -> None:
        """Append a figure; `draw` is called when the document is written."""
        self.figures[name] = draw
        caption = escaped(caption)
        image = f"![{caption}](figures/{quote(name)}.png)"
        self.paragraphs += [image, f"*Figure {len(self.figures)}. {caption}.*"]

    def add_table(self, table: Table, caption: str) -> None:
        """Append a table under its caption."""
        self.tables.append(table)
        self.say(f"*Table {len(self.tables)}. {escaped(caption)}.*", table.markdown())

    def end_summary(self) -> None:
        """Set the summary to all paragraphs so far, without figures."""
        self.summary = "\n\n".join(self._without_figures)

    @property
    def text(self) -> str:
        """The whole report in Markdown."""
        return "\n\n".join(self.paragraphs) + "\n"

    def write(self, folder: Path, is_slim: bool = False) -> None:
        """Write the report into a folder, and delete files of an earlier report that were not written again.

        All files are written to a workshop inside the folder and then moved to their places, so that a report that is
        stopped leaves the earlier one, and no file that contents.txt does not list.

        Args:
            is_slim: write only files that a repository can show, of the kinds `SLIM`.

        Raises:
            OSError: a file cannot be written or deleted, or the folder has a contents.txt that no report wrote.
        """
        earlier = read_contents(folder)
        if not earlier and (folder / CONTENTS).exists():
            raise FileExistsError(errno.EEXIST, f"its {CONTENTS} is not that of a report", str(folder))
        workshop = folder / f"{UNFINISHED}report"
        shutil.rmtree(workshop, ignore_errors=True)  # of a command that was killed
        workshop.mkdir(parents=True)
        try:
            written = self._write_files(workshop)
            if is_slim:
                written = {name for name in written if name.endswith(SLIM)}
            write_contents(folder, written | earlier)
            for name in written:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(workshop / name, folder / name)
            for name in earlier - written:
                (folder / name).unlink(missing_ok=True)
            write_contents(folder, written)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)

    def _write_files(self, folder: Path) -> set[str]:
        """Write all files of the report, and return their relative paths."""
        paths = [folder / "report.md", folder / "report.html"]
        for name, draw in self.figures.items():
            paths += style.save_figure(draw(), folder / "figures" / name)
        for table in self.tables:
            paths += table.write(folder / "tables")
        paths[0].write_text(self.text, encoding="utf-8")
        paths[1].write_text(render_page(self.text, folder), encoding="utf-8")
        return {path.relative_to(folder).as_posix() for path in paths}


def write_contents(folder: Path, names: set[str]) -> None:
    """Write the relative paths of the report's files into contents.txt."""
    write_whole(folder / CONTENTS, "".join(f"{name}\n" for name in sorted(names)).encode())


def read_contents(folder: Path) -> set[str]:
    """Read the relative paths of the report's files in a folder; the set is empty if there is no report."""
    inside = folder.resolve()
    try:
        lines = (folder / CONTENTS).read_text(encoding="utf-8").splitlines()
        names = {line for line in lines if line and (folder / line).resolve().is_relative_to(inside)}
    except (FileNotFoundError, ValueError):  # also of bytes that are no text, and of a path that no system has
        return set()
    return names if "report.md" in names else set()


def render_page(markdown: str, folder: Path, longest: float = math.inf) -> str:
    """Render Markdown as one HTML page with embedded figures and style, without scripts or network access.

    Args:
        markdown: the text; its first heading becomes the page's title, and HTML tags are shown as text.
        folder: where the figures are; an image that is not a PNG in this folder becomes its alternative text.
        longest: characters that the figures may have in the page, as a text of a few lines can name one many times.

    Raises:
        OSError: a figure cannot be read.
        ValueError: the figures have more characters.
    """
    embedded = 0
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("text", lambda _, tokens, number, *__: _keep_together(tokens[number].content))
    parser.add_render_rule(
        "code_inline", lambda _, tokens, number, *__: f"<code>{_keep_together(tokens[number].content)}</code>"
    )
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type == "th_open":
            token.attrs["scope"] = "col"
        for child in token.children or ():
            if child.type == "image":
                path = folder / unquote(str(child.attrs["src"]))
                if path.suffix == ".png" and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                    content = base64.b64encode(path.read_bytes()).decode()
                    embedded += len(content)
                    if embedded > longest:
                        raise ValueError(f"its figures have more than {longest:,} characters")
                    child.attrs["src"] = f"data:image/png;base64,{content}"
                else:
                    child.type = "text"  # the token's content is the alternative text
    title = next(after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("page.html").render(
        title=title,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        content=Markup(parser.renderer.render(tokens, parser.options, {})),
    )


def is_closed(markdown: str) -> bool:
    """Tell whether a text ends outside of code blocks, comments and HTML that would swallow what follows it."""
    tokens = MarkdownIt("commonmark").parse(f"{markdown}\n\nend")
    ends_outside = (tokens[-1].type, tokens[-1].level) == ("paragraph_close", 0) and tokens[-2].content == "end"
    inner = chain.from_iterable([block, *(block.children or ())] for block in tokens)
    elements = _Elements()
    try:
        elements.feed("".join(token.content for token in inner if token.type in ("html_block", "html_inline")))
    except AssertionError:  # html.parser's answer to some declarations, such as <![2]
        return False
    return ends_outside and not elements.open.total()


class _Elements(HTMLParser):
    """The HTML elements that are open at the end of what was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in EMPTY_ELEMENTS:
            self.open[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if self.open[tag]:
            self.open[tag] -= 1

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.handle_starttag(tag, attrs)  # as browsers read <div/>


def _keep_together(text: str) -> str:
    """Render text as HTML in which no line breaks at the hyphens of a flag or a date; style.css has the rule for it."""
    return re.sub(r"--[a-z0-9-]+|\d{4}-\d\d-\d\d", r"<span>\g<0></span>", escape(text))
