"""Copies are found in every disguise, and no two honest runs are taken for copies."""

import contextlib
import shutil
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from helpers import cut_dataset, make_result

import training
from augmentation import Augmentation
from docs import draw_copies
from engine import records, run_files
from engine.files import RecordError
from experiments import LARGEST, Experiment
from grading import copies
from grading.copies import LEAST, Trace, correlate, find_copies, measure_units, simplify, trace_run

ONE_CYCLE = dict(optimizer="sgd", lr_scheduler="one_cycle")
KINDS = {
    "mlp": dict(model="mlp", hidden=(32, 16)),
    "mlp with L1": dict(model="mlp", hidden=(32, 16), l1=0.001, l1_mode="proximal"),
    "mlp with batch norm": dict(model="mlp", hidden=(32, 16), norm="batch", norm_position="after"),
    "cnn": dict(model="cnn1", norm="batch", lr=0.01),
    "cnn, norm after": dict(model="cnn3", norm="batch", dropout=0.0, lr=0.01),
    "layer norm": dict(model="cnn1", norm="layer_chw", lr=0.01),
    "no hidden layer": dict(model="mlp", hidden=()),
    "few units": dict(model="mlp", hidden=(4, 4)),
}


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Train two seeds of each kind, and return {kind: record}."""
    folder = tmp_path_factory.mktemp("runs")
    few = cut_dataset(digits, train=1000, validation=100, test=100)
    found = {}
    for kind, settings in KINDS.items():
        experiment = Experiment(dataset="mnist_sample", batch_size=50, epochs=2, **settings)
        record = records.Record(folder / kind, experiment, dict(name="mnist_sample"))
        record.folder.mkdir()
        for run in training.train(experiment, [0, 1], few):
            records.write_run(record.folder, run)
            record.results[run.seed] = run.result
        found[kind] = record
    return found


def trace_all(record):
    return [trace_run(record, seed, f"{record.title} seed {seed}") for seed in record.results]


def change(trace, **changes):
    """Return the trace of a run that another student hands in."""
    return replace(trace, **dict(name=f"their {trace.name}", seconds=-1.0) | changes)


@pytest.mark.parametrize("kind", ["mlp", "mlp with L1", "mlp with batch norm", "cnn", "cnn, norm after"])
def test_a_copy_under_another_seed_is_found_in_every_disguise(kind, trained, digits):
    record = trained[kind]
    first, second = trace_all(record)
    copies = dict(draw_copies.make_copies(record, 1, cut_dataset(digits, train=1000)))
    assert set(copies) == {*draw_copies.DISGUISES, "one more epoch"}
    for disguise, weights in copies.items():
        layers, shares = measure_units(weights)
        copy = change(second, seed=7, layers=layers, shares=shares)
        (found,) = find_copies([copy], [first, second])
        assert (found.name, found.of) == (copy.name, second.name), disguise
        is_undone = disguise == "other signs"  # exactly, but for rounding
        assert found.why.startswith(("equal weights", "correlation 1.00") if is_undone else "correlation "), disguise
        assert find_copies([copy], [first]) == [], "an independent seed"


@pytest.mark.parametrize("kind", ["other order of units", "rescaled units", "other signs"])
@pytest.mark.parametrize("model", ["mlp with batch norm", "cnn", "cnn, norm after"])
def test_a_network_with_other_units_computes_the_same(kind, model, trained, digits):
    """Or the disguise would show in the metrics."""
    record = trained[model]
    network = draw_copies.build_network_of(record)
    before = training.predict(network, digits, digits.test, 1)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draw_copies.DISGUISES[kind](network, torch.Generator().manual_seed(0))
    after = network.state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in state.items())
    torch.testing.assert_close(training.predict(network, digits, digits.test, 1), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "mlp with L1"])
def test_weights_of_pixels_that_are_always_black_hide_no_copy(kind, trained, digits):
    record = trained[kind]
    first, second = trace_all(record)
    weights = run_files.read_weights(record.run_folder(1))
    weight = next(iter(weights.values()))
    images = torch.cat([part.images for part in (digits.train, digits.validation, digits.test)])
    is_black = (images == 0).all(0).flatten()
    assert is_black.sum() > 50
    weight[:, is_black] = 100 * torch.randn(len(weight), int(is_black.sum()), generator=torch.Generator())
    network = draw_copies.build_network_of(record)
    network.load_state_dict(weights)
    original = draw_copies.build_network_of(record)
    original.load_state_dict(run_files.read_weights(record.run_folder(1)))
    predictions = [training.predict(each, digits, digits.test, 1) for each in (network, original)]
    torch.testing.assert_close(*predictions)
    layers, shares = measure_units(weights)
    (found,) = find_copies([change(second, seed=7, layers=layers, shares=shares)], [first, second])
    assert found.of == second.name


@pytest.mark.parametrize("factor", [1e-15, 1e15, 2.0**70])
def test_layers_of_other_scales_hide_no_copy(factor, trained, digits):
    record = trained["mlp"]
    first, second = trace_all(record)
    weights = run_files.read_weights(record.run_folder(1))
    original = draw_copies.build_network_of(record)
    original.load_state_dict(weights)
    for name, tensor in list(weights.items())[:3]:  # weights and biases of the first layer, weights of the second
        weights[name] = tensor / factor if name.startswith("3") else tensor * factor
    network = draw_copies.build_network_of(record)
    network.load_state_dict(weights)
    torch.testing.assert_close(*(training.predict(each, digits, digits.test, 1) for each in (network, original)))
    layers, shares = measure_units(weights)
    (found,) = find_copies([change(second, seed=7, layers=layers, shares=shares)], [first, second])
    assert found.of == second.name


def test_weights_in_another_order_hide_no_copy(trained, tmp_path):
    record = replace(trained["cnn"], folder=shutil.copytree(trained["cnn"].folder, tmp_path / "cnn"))
    first, second = trace_all(record)
    path = record.run_folder(1) / "weights.pt"
    weights = torch.load(path, weights_only=True)
    torch.save(dict(sorted(weights.items(), reverse=True)), path)
    again = trace_run(record, 1, "again")
    assert find_copies([change(again, seed=7)], [first, second])[0].of == second.name


def test_independent_runs_are_no_copies(trained):
    for kind, record in trained.items():
        assert find_copies(trace_all(record)) == [], kind


def test_runs_are_compared_in_parts_that_fit_into_memory(trained, monkeypatch):
    for record in trained.values():
        first, *others = trace_all(record)
        several = [*others, first, *others]
        at_once = correlate(first, several)
        with monkeypatch.context() as patch:
            patch.setattr(copies, "MOST_NUMBERS", 1)  # one after the other
            assert correlate(first, several) == pytest.approx(at_once)
        assert at_once[len(others)] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["no hidden layer", "few units"])
def test_runs_that_are_alike_are_no_copies_where_all_seeds_learn_the_same(kind, trained):
    first, _ = trace_all(trained[kind])
    alike = change(first, seed=5, layers=[layer + 1e-4 * torch.randn(layer.shape) for layer in first.layers])
    assert correlate(alike, [first])[0] > LEAST
    assert find_copies([alike], [first]) == []


def test_units_that_a_penalty_shrank_to_nothing_are_no_twins():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        weights = {
            "1.weight": torch.randn(128, 784, generator=generator),
            "3.weight": torch.randn(128, 128, generator=generator),
        }
        for weight in weights.values():
            weight[4:] = 0
        layers, shares = measure_units(weights)
        return Trace(f"seed {seed}", seed, Experiment(), 15, float(seed), layers, shares)

    assert find_copies([draw(seed) for seed in range(5)]) == []


def test_equal_weights_are_named_even_where_all_seeds_learn_the_same(trained):
    for kind, record in trained.items():
        first, second = trace_all(record)
        (found,) = find_copies([change(first, seed=5)], [first, second])
        assert (found.of, found.why) == (first.name, "equal weights with different seeds"), kind


def test_of_the_same_seed_only_equal_weights_or_equal_seconds_tell_a_copy(trained):
    first, _ = trace_all(trained["mlp"])
    alike = [layer + 1e-4 * torch.randn(layer.shape) for layer in first.layers]
    other = simplify(Experiment(model="mlp", hidden=(32, 16), l1=1e-9))
    for changes, why in (
        (dict(), None),
        (dict(seconds=first.seconds), "the same seed, settings and training time"),
        (dict(seconds=first.seconds, layers=alike), "the same seed, settings and training time"),
        (dict(layers=alike), None),
        (dict(experiment=other, layers=alike), None),
        (dict(experiment=other), "equal weights with different settings"),
        (dict(chosen_epoch=first.chosen_epoch + 5), "equal weights with different settings"),
        (dict(chosen_epoch=first.chosen_epoch + 5, layers=alike), None),
    ):
        assert [copy.why for copy in find_copies([change(first, **changes)], [first])] == ([why] if why else [])


def test_runs_of_one_submission_are_compared_once(trained):
    first, second = trace_all(trained["mlp"])
    assert find_copies([first, replace(first, name="another title")]) == [], "the same run under two titles"
    longer = change(first, chosen_epoch=first.chosen_epoch + 5)  # with five rows that were appended to its history
    assert [copy.why for copy in find_copies([first, longer])] == ["equal weights with different settings"]
    again = change(first, seed=9)
    assert [(copy.name, copy.of) for copy in find_copies([first, second, again])] == [(again.name, first.name)]


def test_the_script_draws_every_kind_of_pair(trained, tmp_path, capsys, monkeypatch):
    found = [trained[kind] for kind in ("mlp", "mlp with L1")]
    monkeypatch.setattr(draw_copies.records, "read_all", lambda runs_dir, study: (found, []))
    monkeypatch.setattr(draw_copies, "load_test_set", lambda record, data_dir: (None, "takes time"))
    draw_copies.main(["--study", "fashion-mlp", "--out", str(tmp_path / "copies.png")])
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    kinds = [draw_copies.INDEPENDENT, draw_copies.SAME_SEED, *draw_copies.DISGUISES]
    assert [(kind.strip(), int(pairs)) for kind, pairs in rows] == list(zip(kinds, (4, 2, *[2] * 7), strict=True))
    assert (tmp_path / "copies.png").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"0.bias": torch.ones(3)}, "it holds no layer"),
        ({"0.weight": torch.ones(4, 3), "2.weight": torch.ones(2, 5)}, "must match"),
        ({"0.weight": torch.ones(4, 0)}, "0 elements"),
    ],
)
def test_weights_that_are_no_network_are_refused(weights, says):
    with pytest.raises((ValueError, RuntimeError), match=says):
        measure_units(weights)


@pytest.mark.parametrize("is_honest", [True, False])
def test_weights_of_another_network_cannot_be_read(is_honest, tmp_path):
    (tmp_path / "seed-0").mkdir()
    honest = training.build_network(Experiment(), (1, 28, 28), 10, seed=0).state_dict()
    torch.save(dict(honest) if is_honest else {"bias": torch.ones(3)}, tmp_path / "seed-0" / "weights.pt")
    record = records.Record(tmp_path, Experiment(), dict(name="mnist_sample"), results={0: make_result(0, 0.5)})
    refused = pytest.raises(RecordError, match=r"weights.pt: cannot be read \(")
    with contextlib.nullcontext() if is_honest else refused:
        trace_run(record, 0, "a run")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_that_are_zero_or_not_finite_are_no_copies_of_other_weights(value, trained):
    first, second = trace_all(trained["mlp"])
    layers, shares = measure_units({"1.weight": torch.full((32, 784), value), "3.weight": torch.full((16, 32), value)})
    strange = change(first, seed=5, layers=layers, shares=shares)
    assert all(not find_copies([one], [other]) for one, other in combinations([strange, first, second], 2))


@pytest.mark.parametrize(
    ("first", "second", "may_be_equal"),
    [
        (dict(l2=0.001), dict(weight_decay=0.002), True),
        (dict(l2=0.001, optimizer="adamw"), dict(weight_decay=0.002, optimizer="adamw"), False),
        (dict(l2=0.001), dict(weight_decay=0.001), False),
        (dict(patience=3), dict(), True),
        (dict(epochs=20, patience=3, restore="last"), dict(epochs=15), True),
        (dict(norm="ghost", ghost_splits=1), dict(norm="batch"), True),
        (dict(norm="ghost", ghost_splits=2), dict(norm="batch"), False),
        (dict(lr=0.01), dict(), False),
        (dict(rotation=2.0), dict(), True),
        (dict(rotation=2.0, rotation_fill=9), dict(affine_degrees=1.0, affine_translate=0.01), True),
        (dict(elastic=0.1, interpolation="bilinear"), dict(affine_scale=0.03), True),
        (dict(rotation=7.0, affine_scale=0.03), dict(rotation=7.0), True),
        (dict(rotation=7.0), dict(), False),
        (dict(rotation=7.0, rotation_fill=9), dict(rotation=7.0), False),
        (dict(rotation=7.0, interpolation="bilinear"), dict(rotation=7.0), False),
        (dict(optimizer="sgd", epochs=20), dict(optimizer="sgd"), True),
        (ONE_CYCLE | dict(epochs=20), ONE_CYCLE, False),
        (dict(lr_scheduler="cosine", epochs=20), dict(lr_scheduler="cosine"), False),
        (dict(warmup=3, epochs=20), dict(warmup=3), True),
        (dict(warmup=3), dict(warmup=2), False),
        (dict(average=0.9), {}, False),
        (dict(optimizer="adamw"), {}, True),
        (dict(optimizer="adamw", weight_decay=0.1), {}, False),
        (dict(lr_scheduler="step", lr_step_size=15), {}, True),
        (dict(lr_scheduler="step", lr_step_size=14), {}, False),
        (dict(lr_scheduler="step", lr_step_size=5, patience=3), dict(patience=3), True),  # it may end before the step
        (dict(model="cnn1", norm="none", l1=0.1), dict(model="cnn1", norm="none", l1=0.1, penalize="all"), True),
        (dict(model="cnn1", l1=0.1), dict(model="cnn1", l1=0.1, penalize="all"), False),
        (dict(l1=0.1), dict(l1=0.1, penalize="all"), False),
        (dict(model="mlp1"), dict(model="mlp", hidden=(64, 64)), True),
        (dict(model="mlp3"), dict(model="mlp", hidden=(64, 64)), False),
        (dict(model="cnn1", norm="group", groups=1), dict(model="cnn1", norm="layer"), True),
        (dict(norm="group", groups=1), dict(norm="layer"), True),
        (dict(norm="group", groups=4), dict(norm="group", group_size=16), True),
        (dict(norm="group", group_size=64), dict(norm="layer"), True),
        (dict(norm="group", group_size=100), dict(norm="group", group_size=64), False),  # no network can have it
        (dict(model="mlp3", norm="group", groups=4), dict(model="mlp3", norm="group", group_size=16), False),
    ],
)
def test_only_settings_whose_training_may_be_the_same_may_share_weights(first, second, may_be_equal):
    assert (simplify(Experiment(**first)) == simplify(Experiment(**second))) == may_be_equal


@pytest.mark.parametrize("name", copies.FAINT)
def test_a_faint_augmentation_may_change_no_image_and_a_stronger_one_does(name, digits):
    images = digits.train.images[:100]
    for share, is_changed in ((0.3, False), (1.0, True)):
        augmentation = Augmentation(**{name: share * copies.FAINT[name]})
        drawn = augmentation.draw(len(images), images.shape[1:], torch.Generator().manual_seed(0))
        assert torch.equal(augmentation(images, drawn), Augmentation()(images, {})) != is_changed


@pytest.mark.parametrize("settings", [dict(max_norm=100.0), dict(clip_norm=1000.0), dict(dataset="fashion_mnist")])
def test_a_limit_that_is_never_reached_and_another_name_of_the_data_explain_equal_weights(settings):
    assert simplify(replace(Experiment(), **settings)) == simplify(Experiment())


def test_a_penalty_of_any_size_is_simplified():
    largest = simplify(Experiment(l2=LARGEST, weight_decay=LARGEST))
    assert (largest.l2, largest.weight_decay) == (0.0, LARGEST)
