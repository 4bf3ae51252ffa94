"""What the report says of what was found, from the first page to the provenance.

document = write(findings, problems=[], opening=["# Report"], closing=[])      # a document.Document
"""

import math
import re
import shlex

import experiments
import models
from analysis import pictures, tables
from analysis.background import background
from analysis.compare import FEWEST_SEEDS, mean_interval
from analysis.document import Document
from analysis.findings import network_of
from analysis.tables import Number, Table, escaped
from engine.progress import seed_list
from sources import catalogue

WHAT = dict(
    test_accuracy="test accuracy",
    test_loss="test loss",
    train_accuracy="train accuracy",
    gap="the gap between train and test accuracy",
    epochs="the number of epochs",
    zeros="the share of weights that are exactly zero",
)
DECIDED = ("supported", "contradicted", "no practical difference")
HOW_TO_READ = """\
Accuracies are percentages, mean ± half-width of the 95 % Student-t interval over seeds; one seed has no interval. They
are measured in evaluation mode on plain images, at the epoch that the run hands in; losses are means over images,
without penalty. Zeros and < 0.001 are the shares of weights that are exactly zero, and smaller than that; ‖w‖ is the
root of their sum of squares. Seconds are a process's, divided by the runs side by side in it. An experiment in bold has
the best validation accuracy, and the second's is distinguishably lower.

Differences are paired by seed and counted in points; their 95 % intervals count the chance of the seeds and that of the
test images. Intervals and p are corrected for the number of comparisons (Holm): a table's with its baseline, a study's
over all its claims. A difference is no practical one where the 90 % interval, which is not corrected (90 % ±), lies
within the margin; that supports a claim that two are the same; for one that the first is not higher, the upper end
alone counts. Otherwise a claim is supported or contradicted where its interval leaves out zero; one that two differ is
contradicted, too, where they are equal in every run. Under five seeds there is no verdict. Validation images chose what
was chosen; test images were looked at once, after training. Every table is in `tables/` as CSV and for LaTeX, every
figure in `figures/` as PNG and PDF."""


def write(all_findings, problems, opening, closing):
    """The whole report as a `document.Document`; `opening` and `closing` are the student's own paragraphs."""
    document = Document()
    document.say(*opening, "## What was found")
    for findings in all_findings:
        first_page(document, findings)
    document.say(*[f"Left out: {escaped(each)}" for each in problems])
    document.end_summary()
    for findings in all_findings:
        chapter(document, findings)
    document.say("## How to read the figures", HOW_TO_READ)
    document.say("## Background", background())
    document.say("## Provenance")
    provenance(document, all_findings)
    document.say(*closing)
    return document


# ---------------------------------------------------------------------------------------------------------------------
# What was found, in sentences


def first_page(document, findings):
    document.say(f"### {heading(findings)}")
    if findings.dataset_name.endswith("_sample"):
        full = findings.dataset_name.removesuffix("_sample")
        document.say(f"**An embedded sample: its figures are not those of the full {full}.**")
    pictures.forest(document, findings)
    found = [*verdicts_in_words(findings)] or [*differences_in_words(findings), *others_in_words(findings)]
    found += [*best_in_words(findings), *undecided_in_words(findings)]
    document.say(*["\n".join(f"- {each}" for each in found)] * bool(found))
    document.say(*what_is_missing(findings))


def heading(findings):
    split = f", split with seed {findings.split_seed}" * bool(findings.split_seed)
    return escaped(f"{findings.table}: {findings.dataset_name}{split}")


def verdicts_in_words(findings):
    for judgement in findings.judgements:
        claim = judgement.claim
        if judgement.verdict not in DECIDED:
            continue
        effects = in_words(judgement.comparisons, claim.figure)
        seeds = min(comparison.seeds for comparison in judgement.comparisons.values())
        source = "the claim" if claim.kind == "own" else "the write-up says"
        corrected = "with what was corrected, " * (claim.kind == "corrected")
        yield (
            f"{named(judgement.one)} {effects}, over {seeds} seeds; {source} “{escaped(claim.says)}”: "
            f"{corrected}**{judgement.verdict}**."
        )


def undecided_in_words(findings):
    claims = {}
    for judgement in findings.judgements:
        if judgement.verdict not in DECIDED:
            why, claim = judgement.verdict.partition(" (")[0], judgement.claim
            claims.setdefault(why, {})[f"“{claim.says}” ({claim.kind})"] = None
    for why, says in claims.items():
        yield escaped(f"{why[0].upper()}{why[1:]}: {'; '.join(says)}.")


def differences_in_words(findings):
    for title, comparison in findings.differences.items():
        seeds = f"over {comparison.seeds} seeds" if comparison.seeds > 1 else "in one seed, which gives no interval"
        effect = in_words({findings.baselines[title]: comparison}, "test_accuracy")
        yield f"{named(title)} {effect}, {seeds}."


def others_in_words(findings):
    """The test accuracy of what is not compared, nor compared with."""
    compared = {*findings.differences, *(findings.baselines[title] for title in findings.differences)}
    for title in findings.trained:
        if title not in compared:
            values = [100 * value for value in findings.values(title, "test_accuracy")]
            seeds = f"{len(values)} seeds" if len(values) > 1 else "one seed"
            yield f"{named(title)} has a test accuracy of {Number(*mean_interval(values))} % over {seeds}."


def named(title):
    return f"*{escaped(title)}*"


def in_words(comparisons, name):
    """`lowers test accuracy by 1.14 ± 0.30 points against *third*`, of comparisons {title: comparison with it}."""
    amounts = {}
    for title, comparison in comparisons.items():
        number = tables.shown(comparison, name)
        low, high = comparison.interval()
        effect, by = f"changes {WHAT[name]}", "by "
        if low <= 0 <= high:
            effect, by = f"shows no distinguishable change of {WHAT[name]},", ""
        elif not math.isnan(low):
            effect = f"{'raises' if comparison.difference > 0 else 'lowers'} {WHAT[name]}"
            number = number._replace(value=abs(number.value), signed=False)
        unit = "" if name in tables.NO_SHARES else " points"
        amounts.setdefault(effect, []).append(f"{by}{number}{unit} against {named(title)}")
    return " and ".join(f"{effect} {' and '.join(of_effect)}" for effect, of_effect in amounts.items())


def best_in_words(findings):
    if len(findings.trained) > 1:
        best, second = map(named, findings.by_validation[:2])
        than = {
            "supported": f"distinguishably above {second}",
            "too few seeds": f"before {second}, with too few seeds in common to tell them apart",
        }.get(findings.lead, f"not distinguishable from {second}")
        yield f"By validation accuracy the best is {best}, {than}."


def what_is_missing(findings):
    """What stands in the way of verdicts, and the commands that would change it."""
    if findings.problem:
        yield f"The test images could not be read, so nothing is compared: {escaped(findings.problem)}"
    if findings.left_out:
        known = [title for title in findings.left_out if title in findings.study.experiments]
        anew = f": `{study_command(findings, '--only', *known)} --force`" if known else ""
        yield f"Left out: {escaped(', '.join(findings.left_out))}, trained with other settings than the study has{anew}"
    if missing := findings.missing:
        yield f"Not trained yet: `{study_command(findings, '--only', *missing)}`"
    for baseline in findings.missing_baselines:
        of, *others = [title for title, name in findings.baselines.items() if name == baseline.name]
        more = f" and {len(others)} more" * bool(others)
        yield f"`{baseline.name}`, the baseline of {named(of)}{more}, is not trained yet: `{baseline.command}`"
    if findings.diverged:
        yield escaped(f"Every run diverged: {', '.join(findings.diverged)}.")
    counts = {title: (len(record.results), len(record.diverged)) for title, record in findings.trained.items()}
    few = [title for title, (finished, diverged) in counts.items() if finished + diverged < FEWEST_SEEDS]
    if few:
        commands = [findings.trained[title].experiment.command for title in few]
        if findings.study:
            commands = [study_command(findings, *["--only", *few] * (few != list(findings.trained)))]
        commands = ", ".join(f"`{command} --seeds 0-4`" for command in commands)
        no_verdict = "there is no verdict" if findings.judgements else "intervals are wide"
        yield f"Under five seeds {no_verdict}, and with one there is no interval: {commands}"
    if findings.changes and findings.study.claims:
        yield escaped(
            "The claims are not judged: the study was trained with other settings than its own "
            f"({findings.table.partition(',')[2]})."
        )


def study_command(findings, *words):
    """The command that trains a study with the settings that it was given."""
    changes = []
    for name, value in findings.changes.items():
        changes += [experiments.flag_of(name), *[str(value)] * (value is not True)]
    return f"python train.py {shlex.join(['--study', findings.study_name, *changes, *words])}"


# ---------------------------------------------------------------------------------------------------------------------
# A chapter for each study


def chapter(document, findings):
    document.say(f"## {heading(findings)}")
    if findings.study:
        document.say(escaped(findings.study.asks))
    setting(document, findings)
    document.say("### Comparison")
    difference = ", and its difference to the baseline's" if findings.differences else ""
    document.table(tables.accuracies(findings), f"Accuracy{difference}")
    document.table(tables.losses_and_weights(findings), "Loss, weights and cost")
    if findings.judgements:
        document.table(tables.claims(findings), "The claims, each with what was found and the verdict")
    pictures.sweep(document, findings)
    pictures.curves_and_seeds(document, findings)
    pictures.weights(document, findings)
    if findings.dataset:
        document.say("### Classes and mistakes")
        pictures.classes(document, findings)
        pictures.mistakes(document, findings)
    document.say("### Networks")
    layers(document, findings)


def setting(document, findings):
    """The data, the baseline's training and what the others change."""
    of_data = next(iter(findings.trained.values())).dataset
    split_seed = next(iter(findings.trained.values())).experiment.split_seed
    height_width = "×".join(map(str, catalogue.SOURCES[findings.dataset_name].shape[1:]))
    document.say(
        f"{of_data['train']:,} train, {of_data['validation']:,} validation, {of_data['test']:,} test images of "
        f"{height_width} pixels, split by class with seed {split_seed}."
    )
    if findings.dataset:
        document.table(tables.data_statistics(findings), "The images, as values from 0 to 1, for each channel")
        pictures.samples(document, findings)
    if findings.study:
        described, experiment = findings.study.baseline, findings.experiment(findings.reference)
        if findings.reference != described:
            described += f", which does not go with what was changed. {findings.reference}"
        document.say(
            f"The baseline is {escaped(described)}: {training_in_words(experiment)}. By hand: `{experiment.command}`; "
            "what that command does not name is the default, as `python train.py --help` has it."
        )
        document.table(tables.settings(findings), "The experiments")
    else:
        document.table(tables.commands(findings), "The experiments")
    if findings.study and not findings.changes:
        document.say("\n".join(f"- {escaped(deviation)}" for deviation in findings.study.deviations))


def training_in_words(experiment):
    """`adam with learning rate 0.001, batches of 64, 15 epochs at most`."""
    schedule = {
        "constant": "",
        "step": f", times {experiment.lr_gamma:g} every {experiment.lr_step_size} epochs",
        "one_cycle": " at its peak (one cycle)",
    }[experiment.lr_scheduler]
    momentum = f" and momentum {experiment.momentum:g}" if experiment.momentum else ""
    return (
        f"{experiment.model} by {experiment.optimizer} with learning rate {experiment.lr:g}{schedule}{momentum}, "
        f"batches of {experiment.batch_size}, {experiment.epochs} epoch{'s' * (experiment.epochs > 1)} at most"
    )


def layers(document, findings):
    """The layers of every network that differs from the others, and whose it is."""
    titles_by_rows = {}
    for title, record in findings.trained.items():
        rows, shape = [], catalogue.SOURCES[findings.dataset_name].shape
        for layer, out, parameters in models.layer_table(network_of(record), shape):
            if parameters or out != shape:  # activations and dropout change neither
                rows.append((layer, "×".join(map(str, out)), parameters))
            shape = out
        titles_by_rows.setdefault(tuple(rows), []).append(title)
    for number, (rows, titles) in enumerate(titles_by_rows.items(), 1):
        rows = [*rows, ("all", "", sum(parameters for *_, parameters in rows))]
        table = Table(f"{findings.name}-layers-{number}", ("layer", "shape out", "parameters"), rows)
        document.table(table, f"Layers with parameters, and those that change the shape, of {'; '.join(titles)}")


# ---------------------------------------------------------------------------------------------------------------------


def provenance(document, all_findings):
    """With what, on what and by which commands everything was trained."""
    data_sets, commands, versions, rows = {}, {}, set(), []
    for findings in all_findings:
        for title, record in findings.trained.items():
            results = record.results.values()
            data_sets[findings.dataset_name] = record.dataset["checksum"]
            commands |= dict.fromkeys(result["command"] for result in results)
            versions |= {f"torch {result['versions']['torch']}" for result in results}
            rows.append(
                (
                    findings.table,
                    title,
                    seed_list(record.results).partition(" ")[2],
                    Number(sum(result["seconds"] for result in results) / 60, places=1),
                    *(_all_of(results, name) for name in ("device", "threads", "commit", "finished")),
                )
            )
    header = ("table", "experiment", "seeds", "minutes, all seeds", "device", "threads", "commit", "finished")
    document.table(Table("provenance", header, rows), "Where, when and with what every experiment was trained")
    document.say(f"Trained with {', '.join(sorted(versions))}.")
    document.say(*[f"SHA-256 of {name}: `{checksum}`" for name, checksum in sorted(data_sets.items())])
    document.say("The commands:", "\n".join(f"    python {command}" for command in sorted(commands)))


def _all_of(results, name):
    """The values of something over runs, or the first and last; of a commit its first digits, of a time the day."""
    values = {str(result.get(name) or "unknown") for result in results}
    if name == "commit":
        values = {re.sub("^([0-9a-f]{10})[0-9a-f]+", r"\1", value) for value in values}
    if name == "finished":
        values = {value.partition("T")[0] for value in values}
    values = sorted(values)
    return " … ".join(dict.fromkeys([values[0], values[-1]]))
