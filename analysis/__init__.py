"""The analysis: from the records of runs to the report.

`compare.py` computes the statistics, and `metrics.py` applies them to records. `findings.py` collects the results of a
group of records, and `claims.py` judges the claims of a study. `tables.py`, `figures.py` and `wording.py` show these
findings; `plots.py` draws the figures and receives only numbers. `sections.py` orders the report, `background.py`
explains the techniques, and `document.py` writes the files. Nothing here trains a network or changes a record.
"""
