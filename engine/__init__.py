"""From a command to finished runs: everything between the command line and the loop in `training.py`.

`plan.py` decides which seeds still have to be trained and which of them train side by side. `workers.py` trains this
plan in processes; `cluster.py` trains it on the workers of a Dask cluster. `checkpoints.py` stores unfinished training.
`records.py` stores finished runs and defines their format on disk. This folder imports nothing from reports or grading.
"""
