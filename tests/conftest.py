import pytest
import torch

import data


def pytest_addoption(parser):
    parser.addoption("--studies", type=int, default=100, help="studies that test_statistics.py simulates of each kind")
    parser.addoption("--kills", type=int, default=3, help="kills of each training that test_resume.py types again")
    parser.addoption("--mutations", type=int, default=20, help="malformed inputs that test_mutation.py makes")


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other after every small product are slow where other programs use the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def float64():
    """Everything that is made meanwhile has double precision, so that rounding cannot hide a mistake."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def clothes():
    return data.load("fashion_mnist_sample", "unused")


@pytest.fixture(scope="session")
def digits():
    return data.load("mnist_sample", "unused")
