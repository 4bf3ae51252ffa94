"""What was found: from records to the report.

`compare.py` has the statistics, and `metrics.py` takes them from records. `findings.py` gathers what a group of records
says, and `claims.py` judges a study's claims. Findings are shown by `tables.py`, by `figures.py` (drawn by `plots.py`,
which sees numbers alone) and in the sentences of `wording.py`. `sections.py` puts everything in order, `background.py`
explains the techniques, and `document.py` writes the files. Nothing here trains, or changes a record.
"""
