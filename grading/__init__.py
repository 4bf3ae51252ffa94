"""What was handed in: submissions, packed by the student and checked by the grader.

`submission.py` packs a submission and reads it back. `untrusted.py` has the limits and the schema for files of unknown
origin, which are applied before anything else reads them. `checks.py` declares the checks, each with its points;
`comparing.py` says how a value or a report differs from what it should be. `scores.py` adds the points up, finds runs
that submissions share, and writes the results for people and programs. No code of a submission is ever run.
"""
