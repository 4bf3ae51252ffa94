"""From a command to finished runs: everything between the command line and the loop in `training.py`.

`plan.py` decides which seeds still have to be trained and divides them into units, the seeds that train side by side in
one process. `workers.py` trains the units in processes, `cluster.py` on a Dask cluster. `checkpoints.py` stores
unfinished training. `records.py` stores finished runs and defines their format on disk. This folder imports nothing
from `analysis/` or `grading/`.
"""
