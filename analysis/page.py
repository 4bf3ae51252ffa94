"""The report's Markdown as one HTML file: pictures and style inside, no script, nothing from the network."""

import base64
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parent / "templates"


def page(markdown, folder):
    """A whole HTML page.

    Args:
        markdown: its first heading is the page's title; HTML in it is shown as text.
        folder: of the pictures that it names; of one that is not a PNG in it, only the alternative text is left.

    Raises:
        OSError: a picture cannot be read.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type == "th_open":
            token.attrs["scope"] = "col"
        for child in token.children or ():
            if child.type == "image":
                picture = folder / unquote(child.attrs["src"])
                if (
                    picture.suffix == ".png"
                    and picture.is_file()
                    and picture.resolve().is_relative_to(folder.resolve())
                ):
                    encoded = base64.b64encode(picture.read_bytes()).decode()
                    child.attrs["src"] = f"data:image/png;base64,{encoded}"
                else:
                    child.type = "text"  # its alternative text
    title = next(after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("page.html").render(
        title=title,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        content=Markup(parser.renderer.render(tokens, parser.options, {})),
    )
