import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import train
from analysis import background
from analysis.document import render_page
from models import build_norm

IMAGES, CHANNELS, ROWS, COLUMNS = SHAPE = (6, 4, 3, 2)


@pytest.fixture(scope="module")
def text():
    return background.write_background()


@pytest.fixture(scope="module")
def prose(text):
    """The text without its line breaks."""
    return " ".join(text.split())


def table(text, heading):
    """The cells of the table whose header starts with `heading`, with the minus that Python reads."""
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].replace("−", "-").splitlines()
    return [[cell.strip("` ") for cell in line.strip("|").split(" | ")] for line in lines[2:]]


# ---------------------------------------------------------------------------------------------------------------------
# Normalization


@pytest.mark.parametrize(
    ("norm", "settings", "count", "over", "in_evaluation"),
    [
        ("batch", {}, CHANNELS, (IMAGES, 1), 0),
        ("ghost", dict(ghost_splits=3), 3 * CHANNELS, (IMAGES // 3, 1), 0),
        ("ghost", dict(ghost_splits=1), CHANNELS, (IMAGES, 1), 0),
        ("layer", {}, IMAGES, (1, CHANNELS), IMAGES),
        ("layer_chw", {}, IMAGES, (1, CHANNELS), IMAGES),
        ("group", dict(groups=2), 2 * IMAGES, (1, CHANNELS // 2), 2 * IMAGES),
        ("group", dict(groups=1), IMAGES, (1, CHANNELS), IMAGES),
        ("group", dict(group_size=1), CHANNELS * IMAGES, (1, 1), CHANNELS * IMAGES),
    ],
)
def test_a_layer_takes_as_many_means_as_the_closed_form_says(norm, settings, count, over, in_evaluation):
    layer = build_norm(SHAPE[1:], norm, **settings).double()
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = background.find_means(layer, x)
    assert found == [(*over, ROWS, COLUMNS)] * count
    assert sum(map(math.prod, found)) == x.numel()  # every number is part of one mean
    assert len(background.find_means(layer.eval(), x)) == in_evaluation


def test_the_table_of_norms_follows_from_its_own_formulas(text):
    images, channels, rows, columns = background.SHAPE
    found = table(text, "setting | means")
    for flags, count, formula, over, _, parameters in found:
        last_word = flags.split()[-1]
        known = dict(images=images, channels=channels, splits=last_word, groups=last_word)
        assert int(count) == math.prod(int(known[factor]) for factor in formula.split(" × "))
        assert int(count) * math.prod(map(int, over.split(" × "))) == math.prod(background.SHAPE)
        assert int(parameters) == 2 * channels * (rows * columns if last_word == "layer_chw" else 1)
    of_one_image = {flags: int(in_evaluation) for flags, *_, in_evaluation, _ in found}
    assert of_one_image == {
        "--norm batch": 0,
        "--norm ghost --ghost-splits 4": 0,
        "--norm layer": 1,
        "--norm layer_chw": 1,
        "--norm group --groups 2": 2,
    }


def test_the_wrong_count_of_group_means_is_named_and_another(text, prose):
    images, channels, *_ = background.SHAPE
    assert f"channels ÷ groups × images, which would be {channels // 2 * images}.)" in prose
    assert int(table(text, "setting | means")[-1][1]) != channels // 2 * images


def test_batch_norm_gives_mean_0_and_variance_1_and_leaves_the_range_from_minus_1_to_1(prose):
    scores = stats.zscore([0] * 7 + [8])
    low, high = f"{scores.min():.2f}".replace("-", "−"), f"{scores.max():.2f}"
    assert f"0, 0, 0, 0, 0, 0, 0 and 8 come out with mean 0 and variance 1.00, between {low} and {high}." in prose
    assert scores.max() > 1


def test_the_standard_deviation_as_scale_and_the_mean_as_shift_undo_batch_norm(prose):
    assert background.make_batch_norm_example((1, 2, 4))["undone"] == pytest.approx([1, 2, 4])
    assert "make them 0, 0, 0, 0, 0, 0, 0 and 8 again" in prose


# ---------------------------------------------------------------------------------------------------------------------
# Penalties, dropout, early stopping, seeds


def test_the_median_has_the_least_l1_loss_the_mean_the_least_l2_loss_and_the_l1_penalty_moves_the_mean(prose):
    assert "of 1, 2, 3, 4 and 90, the number with the least L1 loss is the median, 3, and" in prose
    assert "and with the least L2 loss the mean, 20." in prose
    assert "with an L1 penalty of λ = 0.5 is least at 19.5," in prose
    guess = np.arange(0, 100, 0.1)
    error = np.subtract.outer([1, 2, 3, 4, 90], guess)
    losses = [np.abs(error).sum(0), np.square(error).sum(0), np.square(error).mean(0) / 2 + 0.5 * np.abs(guess)]
    assert [guess[loss.argmin()] for loss in losses] == pytest.approx([3, 20, 19.5])


def test_the_subgradient_leaves_no_zero_and_the_proximal_step_those_of_the_minimum(text, prose):
    assert "λ = 0.2. After 100 steps of SGD with η = 0.1, 0 of 4 weights are exactly zero by the subgradient" in prose
    assert "by the subgradient, and 2 by the proximal step:" in prose
    for target, *cells in table(text, "a | least at"):
        a = subgradient = proximal = float(target)
        for _ in range(100):
            subgradient -= 0.1 * (subgradient - a + math.copysign(0.2, subgradient))
            proximal -= 0.1 * (proximal - a)
            proximal = math.copysign(max(abs(proximal) - 0.1 * 0.2, 0), proximal)
        minimum = math.copysign(max(abs(a) - 0.2, 0), a)
        assert [float(cell) for cell in cells] == pytest.approx([minimum, subgradient, proximal], abs=5e-5)
        assert [cell == "0" for cell in cells] == [abs(a) < 0.2, False, abs(a) < 0.2]


def test_l2_is_weight_decay_of_twice_lambda_under_sgd_and_adam_and_not_under_adamw(text, prose):
    def trained(l2, weight_decay):
        weights = torch.ones(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([weights], lr=0.1, weight_decay=weight_decay)
        for _ in range(100):
            optimizer.zero_grad()
            ((weights - background.TARGETS).square() / 2 + l2 * weights.square()).sum().backward()
            optimizer.step()
        return weights.detach()

    expected = dict.fromkeys(("SGD", "SGD, momentum 0.9", "Adam"), 0.0)
    expected["AdamW"] = (trained(0.05, 0) - trained(0, 0.1)).abs().max().item()
    assert background.make_decay_example(l2=0.05)["largest"] == pytest.approx(expected, abs=1e-12)
    assert expected["AdamW"] > 0.01
    (shown,) = table(text, " | ".join(expected))
    assert [float(cell) for cell in shown] == pytest.approx(list(expected.values()), abs=5e-5)
    assert "`--l2 0.05` and with `--weight-decay 0.1`:" in prose


def test_dropout_divides_what_it_keeps(prose):
    torch.manual_seed(0)
    zero, kept = nn.Dropout(0.25)(torch.ones(100)).unique().tolist()
    assert zero == 0
    assert f"with p = 0.25, a 1 becomes 0 or {kept:.2f}." in prose


def test_early_stopping_ends_after_its_patience_and_hands_in_the_best_epoch(prose):
    pattern = r"losses of ([\d., and]+) and a patience of (\d) it ends after epoch (\d) and hands in epoch (\d)\."
    losses, *numbers = re.search(pattern, prose).groups()
    losses, (patience, stopped, best) = re.findall(r"[\d.]+", losses), map(int, numbers)
    assert best == 1 + losses.index(min(losses))
    assert stopped == best + patience < len(losses)


def test_a_smooth_label_has_a_least_loss(prose):
    own, other = 1 - 0.1 + 0.1 / 10, 0.1 / 10
    assert (
        f"With ε = 0.1 and 10 classes, the label has the probability {own:.2f}, every other class {other:.2f}." in prose
    )
    least = stats.entropy([own] + 9 * [other])
    assert f"No network can bring the train loss of the curves below {least:.3f}," in prose


def test_limits_shorten_to_the_norm(prose):
    assert "With c = 1, 3 and 4 become 0.6 and 0.8." in prose
    example = background.make_limits_example((3, 4), 1)
    assert example["weights"] == pytest.approx([0.6, 0.8], abs=1e-12)
    assert example["gradient"] == pytest.approx([0.6, 0.8], abs=1e-6)
    assert background.make_limits_example((3, 4), 6)["gradient"] == [3, 4]


def test_an_average_is_corrected_for_its_start(prose):
    weights = 0.9 ** np.array([2, 1, 0])
    corrected, plain = np.average([1, 2, 3], weights=weights), 0.1 * weights @ [1, 2, 3]
    assert f"a weight of 1, 2 and 3 in three steps has the average {corrected:.2f}; without it," in prose
    assert f"without it, the average from 0 would be {plain:.2f}." in prose


def test_the_interval_over_seeds_is_students(prose):
    accuracies = [87.9, 88.3, 88.1, 87.6, 88.6]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(accuracies), scale=stats.sem(accuracies))
    assert f"87.9, 88.3, 88.1, 87.6 and 88.6 % give {(low + high) / 2:.2f} ± {(high - low) / 2:.2f}:" in prose
    percent = 100 * stats.binom.sf(0, 10, 0.05)  # that there is one at least
    assert f"10 independent comparisons at 5 % find something with a probability of {percent:.0f} %" in prose


# ---------------------------------------------------------------------------------------------------------------------
# The text


def test_every_source_that_is_cited_is_listed_and_none_besides(prose):
    body, sources = prose.split("### Sources")
    listed = set()
    for source in sources.split(" - ")[1:]:
        authors, year = re.match(r"(.+?) \((\d{4})\)\. \S", source).groups()
        listed.add((*re.findall(r"\w\w+", authors), year))  # surnames, without initials
    cited = set()
    for names, et_al, year in re.findall(r"((?:[A-Z]\w+, )*[A-Z]\w+(?: and [A-Z]\w+)?)( et al\.)? (\d{4})\b", body):
        surnames = re.findall(r"[A-Z]\w+", names)
        in_full = [each for each in listed if et_al and (each[0], each[-1]) == (*surnames, year)]
        cited.add(in_full[0] if in_full else (*surnames, year))
    assert cited == listed
    assert len(listed) == 25


def test_every_flag_is_one_of_the_command_line(text):
    options = {option for action in train.make_train_parser()._actions for option in action.option_strings}
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert {"--l1", "--l2", "--weight-decay", "--norm", "--patience"} <= flags <= options


def test_the_page_shows_it_under_a_heading_of_the_second_level_without_a_raw_mark(text, tmp_path):
    assert set(re.findall(r"^#+ ", text, re.MULTILINE)) == {"### "}
    html = render_page(f"# Report\n\n## Background\n\n{text}", tmp_path)
    assert html.count("<table>") == 4
    assert "<ol" not in html  # which a number at the start of a line would open
    assert "<code>λ·Σ|w|</code>" in html
    words = re.sub(r"<style>.*?</style>|<[^>]+>", "", html, flags=re.DOTALL)
    assert not re.search(r"{{|{%|\*\*|`|\\|---|^[|#]", words, re.MULTILINE)


def test_it_is_the_same_every_time_and_leaves_torchs_random_numbers_alone(text):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert background.write_background.__wrapped__() == text, "written again, not remembered"
    assert torch.equal(torch.rand(4), expected)
