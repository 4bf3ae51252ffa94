import csv
import math

from analysis.tables import LATEX, Number, Table, escaped
from studies import STUDIES

TABLE = Table(
    "a",
    ("experiment", "n", "test %", "nothing", "note"),
    [("L1 & L2", 94154, Number(88.325, 0.41), "", "λ·Σ|w|"), ("a_b", 5, Number(-0.5, signed=True), "", "")],
    bold=0,
)


def test_a_number_shows_its_sign_its_places_and_its_interval():
    assert str(Number(88.375, 0.25)) == "88.38 ± 0.25"
    assert str(Number(0.00125, places=3, signed=True)) == "+0.001"
    assert str(Number(-1.5, 0.25, 1, signed=True)) == "−1.5 ± 0.2"
    assert str(Number(12.0)) == "12.00"


def test_a_small_difference_of_one_run_keeps_its_form():
    assert str(Number(0.003)) == "< 0.01"
    assert str(Number(0.003, signed=True)) == "+0.00"


def test_markdown_leaves_out_empty_columns_and_sets_the_chosen_row_in_bold():
    lines = TABLE.markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "Σ" not in line]
    assert cells[0] == ["experiment", "n", "test %", "note"]
    assert [rule.endswith(":") for rule in cells[1]] == [False, True, True, False], "numbers stand to the right"
    assert cells[2] == ["a_b", "5", "−0.50", ""]
    assert lines[2].startswith("| **L1 \\& L2** ")
    assert "94,154" in lines[2]
    assert "λ·Σ\\|w\\|" in lines[2]


def test_csv_has_whole_numbers_and_a_column_for_half_widths(tmp_path):
    path, _ = TABLE.write(tmp_path)
    with open(path, newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert header == ["experiment", "n", "test %", "test % ±", "nothing", "note"]
    assert first == ["L1 & L2", "94154", "88.325", "0.41", "", "λ·Σ|w|"]
    assert second == ["a_b", "5", "-0.5", "", "", ""]


def test_latex_is_booktabs_with_its_special_characters_escaped(tmp_path):
    _, path = TABLE.write(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "\\toprule" in text
    assert "L1 \\& L2" in text
    assert "a\\_b" in text
    assert "88.33 $\\pm$ 0.41" in text or "88.32 $\\pm$ 0.41" in text
    assert "$-$0.50" in text
    assert "$\\lambda$" in text


def test_latex_knows_every_character_of_the_studies():
    texts = [entry.note for study in STUDIES.values() for entry in study.experiments.values()]
    texts += [text for study in STUDIES.values() for text in (study.asks, *(claim.says for claim in study.claims))]
    assert {character for character in "".join(texts) if ord(character) > 255} <= LATEX.keys()


def test_markdown_shows_what_was_escaped_as_it_is():
    from markdown_it import MarkdownIt

    for text in ("a*b*c", "_x_", "l1_mode", "`code`", "[link](x)", "&amp;", "<b>", "a|b", "\\*", "~~no~~"):
        (inline,) = [token for token in MarkdownIt().parse(escaped(text)) if token.type == "inline"]
        assert "".join(child.content for child in inline.children) == text
        assert all(child.type in ("text", "text_special") for child in inline.children)


def test_one_seed_shows_no_interval():
    assert str(Number(88.5, math.nan)) == "88.50"
