"""From a command to finished runs: everything between the command line and the loop in `training.py`.

`plan.py` decides which seeds are left to train and which of them go side by side; `workers.py` trains this plan in
processes, and `cluster.py` on the workers of a Dask cluster. `checkpoints.py` keeps what is unfinished, `records.py`
what is finished: it is the format on disk. The files of this folder know nothing of reports and of grading.
"""
