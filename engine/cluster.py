"""Training units of work on a Dask cluster, whose workers need a copy of the code and nothing else.

    with connect("tcp://host:8786") as client:
        plan = make_plan(tasks, TrainOptions(seeds, jobs=len(client.nthreads()), threads=1))
        failures = train_and_record(plan, options, partial(train_units, client))

This uses Dask's own client, because joblib's Dask backend waits forever for a unit that kills its workers.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from data import Dataset
from engine import workers
from engine.checkpoints import Checkpoint
from engine.plan import Plan, Unit
from engine.progress import Progress
from engine.provenance import code_files
from experiments import UserError
from training import State

# distributed is needed only for a cluster, so it is imported in the functions that use it.

REACH_SECONDS = 5  # time in which a scheduler must answer


class ClusterError(UserError):
    """A cluster that cannot be used."""


@contextlib.contextmanager
def connect(address: str, least: int = 1) -> Iterator[Any]:
    """Connect to a scheduler, wait until at least some workers have joined, and yield its `distributed.Client`.

    Leaving the context stops all training on the workers.

    Raises:
        ClusterError: Dask is missing, no scheduler answers, or a worker has different code or more than one thread.
    """
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d{1,5}", address):
        raise ClusterError(
            f"--cluster {address}: expected the address that a scheduler prints, such as tcp://host:8786"
        )
    try:
        from distributed import Client, Security
        from distributed.comm import connect as dial
        from distributed.utils import silence_logging_cmgr
    except ImportError:
        raise ClusterError(f"--cluster {address}: needs Dask; pip install -r requirements-cluster.txt") from None

    async def knock() -> None:  # a client alone would wait forever for a port that never answers
        dialling = dial(address, **Security().get_connection_args("client"))
        (await asyncio.wait_for(dialling, REACH_SECONDS)).abort()

    with contextlib.ExitStack() as context:
        # A connection that fails or is lost is reported in one line, without Dask's tracebacks.
        context.enter_context(silence_logging_cmgr(logging.CRITICAL))
        try:
            asyncio.run(knock())
            client = context.enter_context(Client(address, timeout=REACH_SECONDS))
        except Exception as error:  # another program at that port may answer anything
            says = " ".join(str(error).split()) or f"no answer in {REACH_SECONDS} s"
            raise ClusterError(
                f"--cluster {address}: no scheduler there ({says}); start one with python -m dask scheduler"
            ) from None
        if (there := len(client.nthreads())) < least:
            print(f"{address}: waiting for workers, {there} of {least} connected (Ctrl-C gives up)", flush=True)
            client.wait_for_workers(least)
        for worker, threads in client.nthreads().items():
            if threads != 1:
                raise ClusterError(f"--cluster {address}: {worker} has {threads} threads; start it with --nthreads 1")
        for worker, found in client.run(hash_code, on_error="return").items():
            if difference := compare_code(found):
                raise ClusterError(f"--cluster {address}: {worker} {difference}")
        yield client


@lru_cache(maxsize=1)
def hash_code() -> dict[str, str]:
    """Return {file: SHA-256} for this toolkit's code, cached so that later changes to the files do not count."""
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in code_files().items()}


def compare_code(found: dict[str, str] | Exception) -> str | None:
    """Describe how a worker's code differs from ours; return None if it does not.

    Args:
        found: the worker's `hash_code()`, or the exception that it raised.
    """
    same = "restart it in an up-to-date copy of this folder"
    if isinstance(found, Exception):
        return f"cannot load the code ({found}); {same}"
    for name in sorted(hash_code().keys() | found.keys()):
        if hash_code().get(name) != found.get(name):
            return f"has a different {name}; {same}"
    return None


def train_units(client: Any, plan: Plan, device: str, progress: Progress) -> Generator[workers.UnitResult]:
    """Train the units of a plan on a cluster, and yield each result when it arrives.

    Each unit starts from its checkpoint. If its worker dies, another worker starts it from the same checkpoint.
    """
    from distributed import KilledWorker, as_completed

    sent: dict[int, Any] = {}
    left: dict[Any, int] = {}  # future: number of its unit

    def say_who_is_gone(event: Any) -> None:
        message = event[1]
        if message["action"] == "remove-worker":
            lost = [number for future, number in list(left.items()) if future.key in message["processing-tasks"]]
            if lost:
                names = "; ".join(plan.units[number].name for number in lost)
                progress.say(f"{message['worker']} is gone; other workers train its seeds: {names}")

    client.subscribe_topic("all", say_who_is_gone)
    warnings.filterwarnings("ignore", "Sending large graph")  # each data set is sent only once
    for number, unit in enumerate(plan.units):
        dataset = unit.task.dataset
        if id(dataset) not in sent:
            # Submitted, not scattered: if all workers that hold the data have died, Dask can compute a result again.
            sent[id(dataset)] = client.submit(lambda data: data, dataset, pure=False)
        checkpoint = SentCheckpoint(**asdict(unit.checkpoint), state=unit.checkpoint.read())
        sent_once: Any = None
        task = replace(unit.task, dataset=sent_once)
        arguments = (number, Unit(task, checkpoint), sent[id(dataset)], device, hash_code())
        left[client.submit(_train, *arguments, pure=False)] = number
    for future in as_completed(list(left)):
        number = left[future]
        try:
            result = future.result()
            progress.count(plan.units[number].count_trained(result.runs))
        except KilledWorker as error:
            deaths = f"{error.allowed_failures + 1} workers died while training it, perhaps for lack of memory"
            result = workers.UnitResult(number, error=f"{deaths}; {workers.advise_alone(plan.units[number])}")
        except Exception as error:  # such as a lost connection; other units may still succeed
            says = str(error).partition("\n")[0]
            result = workers.UnitResult(number, error=f"{type(error).__name__}: {says}")
        del left[future]
        yield result


def _train(number: int, unit: Unit, dataset: Dataset, device: str, expected_code: dict[str, str]) -> workers.UnitResult:
    if difference := compare_code(expected_code):
        return workers.UnitResult(number, error=f"a worker that joined later {difference}")
    return workers.train_unit(number, replace(unit, task=replace(unit.task, dataset=dataset)), device, show=None)


@dataclass
class SentCheckpoint(Checkpoint):
    """A checkpoint on a worker, which writes no file but stops training if the client no longer waits for it."""

    state: State | None = None

    def read(self) -> State | None:
        """Return the state that was sent."""
        return self.state

    def write_if_due(self, epoch: int, make_state: Callable[[], State]) -> None:
        """Stop training if the client is gone.

        Raises:
            ClusterError: the client is gone.
        """
        from distributed import get_worker

        worker = get_worker()
        if worker.state.tasks[worker.get_current_task()].state == "cancelled":
            raise ClusterError("the command that started this training has ended")
