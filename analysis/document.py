"""The report as a document: paragraphs of Markdown, and the pictures and tables that are written beside them.

document = Document()
document.say("# Report", "What was found.")
document.picture("curves", "Loss against the epoch", lambda: figures.curves(histories, styles))
document.write(Path("report"))      # report.md, report.html, figures/curves.png and .pdf, tables/
"""

from pathlib import Path
from urllib.parse import quote

from analysis.page import page
from analysis.tables import escaped

CONTENTS = "contents.txt"  # names what a report wrote, so that the next one can take it away


class Document:
    def __init__(self):
        self.paragraphs, self.pictures, self.tables = [], {}, []
        self.summary = ""

    def say(self, *paragraphs):
        self.paragraphs += paragraphs

    def picture(self, name, caption, draw):
        """A picture here; `draw` makes it, a matplotlib Figure, when the document is written."""
        self.pictures[name] = draw
        caption = escaped(caption)
        self.say(f"![{caption}](figures/{quote(name)}.png)", f"*Figure {len(self.pictures)}. {caption}.*")

    def table(self, table, caption):
        self.tables.append(table)
        self.say(f"*Table {len(self.tables)}. {escaped(caption)}.*", table.markdown())

    def end_summary(self):
        """What stands so far, without its pictures, is the summary."""
        pictures = ("![", "*Figure")
        self.summary = "\n\n".join(each for each in self.paragraphs if not each.startswith(pictures))

    @property
    def text(self):
        return "\n\n".join(self.paragraphs) + "\n"

    def write(self, folder):
        """Write everything into a folder; what an earlier document left there and this one has not is removed.

        Raises:
            OSError: a file cannot be written.
        """
        from analysis import plots  # matplotlib: seconds that a refusal need not wait

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.text, encoding="utf-8")
        written = ["report.md", "report.html"]
        for name, draw in self.pictures.items():
            written += [path.relative_to(folder) for path in plots.save(draw(), folder / "figures" / name)]
        for table in self.tables:
            written += [path.relative_to(folder) for path in table.write(folder / "tables")]
        (folder / "report.html").write_text(page(self.text, folder), encoding="utf-8")
        written = {Path(path).as_posix() for path in written}
        for path in contents(folder) - written:
            (folder / path).unlink(missing_ok=True)
        (folder / CONTENTS).write_text("".join(f"{path}\n" for path in sorted(written)), encoding="utf-8")


def contents(folder):
    """The files that a report wrote into a folder, relative to it; none where there is no report."""
    try:
        lines = (folder / CONTENTS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    inside = folder.resolve()
    return {line for line in lines if (folder / line).resolve().is_relative_to(inside)}
