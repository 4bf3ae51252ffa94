"""The style that all figures have in common.

styles = assign_styles(["BN", "GN"])                    # {title: arguments of matplotlib's `plot`}
save_figure(figure, Path("report/figures/forest"))      # forest.png, forest.pdf
"""

import re
import sys
import textwrap
import warnings
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

Styles = dict[str, dict[str, Any]]  # {title: arguments of matplotlib's `plot`}

# Okabe and Ito's colours, which colour-blind readers can tell apart; experiments with the same colour differ in dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
GREY = "#808080"
MISSING = r"Glyph (\d+) .* missing from font"  # how matplotlib begins a warning of a character
in_style = rc_context(  # a decorator
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titley": 1.0,  # fixed, so that matplotlib does not measure all ticks to place the titles
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "figure.dpi": 150,
    }
)


@in_style
def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as `path`.png and `path`.pdf, with the same bytes each time, and return the two paths.

    Characters that the font lacks become boxes, and are named on stderr.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.filterwarnings("always", MISSING)
        if layout := figure.get_layout_engine():
            layout.execute(figure)
            figure.set_layout_engine(None)  # otherwise each `savefig` would compute the layout again
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    lacking = set()
    for each in warned:
        if match := re.match(MISSING, str(each.message)):
            lacking.add(chr(int(match[1])))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if lacking:
        print(
            f"{png.name}: boxes stand for {' '.join(sorted(lacking))}, which the font of figures lacks", file=sys.stderr
        )
    return [png, pdf]


def wrap_title(title: str, width: int = 36) -> str:
    """Break a title into lines of at most `width` characters: after commas or, where none helps, at spaces."""
    lines = [""]
    for part in re.findall(",?[^,]+,?|,", title):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for part in lines for line in textwrap.wrap(part.strip(), width))


def assign_styles(titles: Iterable[str]) -> Styles:
    """Assign a colour and a dash to each title, so that an experiment looks the same in every figure."""
    styles = [dict(color=colour, linestyle=dash) for dash in DASHES for colour in COLOURS]
    return dict(zip(titles, cycle(styles), strict=False))
