"""The analysis: from the records of runs to the report.

`compare.py` computes the statistics, and `metrics.py` applies them to records. `looks.py` plans when verdicts are taken
and `verdicts.py` takes them; `claims.py` judges the claims of a study, and `findings.py` collects what was found in a
group of records. `deciding.py` chooses what `--until-decided` trains next. `tables.py`, `figures.py` and `wording.py`
show the findings, and `gaps.py` what is missing; `plots.py` draws the figures and receives only numbers. `pooling.py`
compares people, `agreement.py` two folders of runs. `sections.py` orders the report, `background.py` explains the
techniques, and `document.py` writes the files. Nothing here trains a network or changes a record.
"""
