"""Submissions, packed by the student and checked by the grader.

`packing.py` packs a submission, `submission.py` reads it. `archives.py` lists the files of an archive or a folder by
names that are safe, and `untrusted.py` applies size limits and a schema to records, before other code uses them.
`checks.py` declares the checks and their points. `recomputing.py` compares a run with what its settings, weights and
history determine, and `differences.py` a submitted report with the recomputed report. `copies.py` finds runs whose
weights come from another run. `scores.py` adds up the points and writes the results as text and CSV; `gradescope.py`
writes them for Gradescope. `pool.py` takes the submissions of many people for one report. No code from a submission is
ever run.
"""
