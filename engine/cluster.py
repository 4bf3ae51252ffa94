"""Units of work on a Dask cluster, whose workers need the code and nothing else of this machine.

with connect("tcp://host:8786") as client:
    plan = workers.make_plan(tasks, jobs=len(client.nthreads()), threads=1)
    for unit, runs in trained(client, plan, "cpu", progress):    # in whatever order they are done

This is Dask's own client and not joblib's backend of it, which waits for ever for a unit that its workers died of.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import warnings
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from engine import workers
from engine.checkpoints import Checkpoint
from engine.progress import seed_list
from engine.provenance import code_files

# distributed takes a second to import and need not be there: the functions that need it import it.

REACH_SECONDS = 5  # a scheduler that has not answered by then counts as out of reach


class ClusterError(Exception):
    """The cluster cannot be used; the message is one line and says what to do."""


@contextlib.contextmanager
def connect(address, workers=1):
    """The `distributed.Client` of a scheduler, once so many workers are there; leaving it ends what they still train.

    Raises:
        ClusterError: there is no scheduler, or a worker has other code than this process or several threads.
    """
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d{1,5}", address):
        raise ClusterError(
            f"--cluster {address}: expected an address as a scheduler prints it, such as tcp://host:8786"
        )
    try:
        from distributed import Client, Security
        from distributed.comm import connect as dial
        from distributed.utils import silence_logging_cmgr
    except ImportError:
        raise ClusterError(f"--cluster {address}: needs Dask; pip install -r requirements-cluster.txt") from None

    async def knock():  # as a client has no patience of its own with what takes a connection and says nothing
        dialling = dial(address, **Security().get_connection_args("client"))
        (await asyncio.wait_for(dialling, REACH_SECONDS)).abort()

    quiet = silence_logging_cmgr(logging.CRITICAL)  # a lost connection is a line of ours, and not its tracebacks
    try:
        asyncio.run(knock())
        client = Client(address, timeout=REACH_SECONDS)
    except Exception as error:  # whatever another program answers at that port
        says = " ".join(str(error).split()) or f"no answer in {REACH_SECONDS} s"
        raise ClusterError(
            f"--cluster {address}: no scheduler there ({says}); start one with python -m dask scheduler"
        ) from None
    with quiet, client:
        if (there := len(client.nthreads())) < workers:
            print(f"{address}: waiting for workers, {there} of {workers} there (Ctrl-C gives up)", flush=True)
            client.wait_for_workers(workers)
        for worker, threads in client.nthreads().items():
            if threads != 1:
                raise ClusterError(f"--cluster {address}: {worker} has {threads} threads; start it with --nthreads 1")
        for worker, found in client.run(code, on_error="return").items():
            if other := difference(found):
                raise ClusterError(f"--cluster {address}: {worker} {other}")
        yield client


@lru_cache(maxsize=1)
def code():
    """{file: SHA-256} of this toolkit as this process has loaded it, whatever becomes of the files."""
    import training  # noqa: F401

    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in code_files().items()}


def difference(found):
    """What other code than this process's a worker has, in words; None if it has the same.

    Args:
        found: its `code()`, or the exception in place of it.
    """
    same = "start it in a copy of this folder, and again after every change"
    if isinstance(found, Exception):
        return f"cannot load the code ({found}); {same}"
    for name in sorted(code().keys() | found.keys()):
        if code().get(name) != found.get(name):
            return f"has another {name}; {same}"
    return None


def trained(client, plan, device, progress):
    """Yield (unit, runs) of each unit as it is done, and (unit, workers.Failure) of one that failed.

    A unit goes on after the epoch of its checkpoint, and if its worker dies, from there again, on another one.
    """
    from distributed import KilledWorker, as_completed

    sent, left = {}, {}

    def say_who_is_gone(event):
        message = event[1]
        if message["action"] == "remove-worker":
            its = [unit for future, unit in list(left.items()) if future.key in message["processing-tasks"]]
            names = "; ".join(f"{unit.task.title and f'{unit.task.title}, '}{seed_list(unit.seeds)}" for unit in its)
            if names:
                progress.say(f"{message['worker']} is gone; its units go to others: {names}")

    client.subscribe_topic("all", say_who_is_gone)
    warnings.filterwarnings("ignore", "Sending large graph")  # the data, once
    for unit in plan.units:
        dataset = unit.task.dataset
        if id(dataset) not in sent:
            # A result and not scattered, so that it can be had again when all workers that hold it have died.
            sent[id(dataset)] = client.submit(lambda data: data, dataset, pure=False)
        checkpoint = Sent(**asdict(unit.checkpoint), state=unit.checkpoint.read())
        light = workers.Unit(replace(unit.task, dataset=None), checkpoint)
        future = client.submit(_train, light, sent[id(dataset)], device, code(), pure=False)
        left[future] = unit
    for future in as_completed(list(left)):
        try:
            runs = future.result()
        except KilledWorker as error:
            deaths = f"{error.allowed_failures + 1} workers died of it, perhaps for want of memory"
            runs = workers.Failure(f"{deaths}; try --runs-at-once 1")
        except Exception as error:  # such as a lost connection: the others may be there already
            runs = workers.Failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        yield left.pop(future), runs


def _train(unit, dataset, device, expected):
    if other := difference(expected):
        return workers.Failure(f"a worker that came later {other}")
    return workers.train_unit(replace(unit, task=replace(unit.task, dataset=dataset)), device)


@dataclass
class Sent(Checkpoint):
    """A checkpoint on a worker: there is no file, and training ends when nobody waits for it any more."""

    state: dict | None = None

    def read(self):
        return self.state

    def write_if_due(self, epoch, make_state):
        from distributed import get_worker

        worker = get_worker()
        if worker.state.tasks[worker.get_current_task()].state == "cancelled":
            raise ClusterError("nobody waits for it")
