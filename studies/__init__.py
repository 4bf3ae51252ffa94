"""What is asked: `STUDIES`, {name: study}, every study that a file of this folder defines.

A study is plain data: its experiments, what an original published and what it claimed. Five are published assignments,
redone. An experiment of theirs is *as run* where it repeats the original's code, mistakes included, *corrected* where
code and write-up differ or a comparison was confounded, and a *control* where the original lacked one. The claims are
those of the write-ups in our words. A study of your own is one more file here; no other file has to be edited.
"""

import sys
from pathlib import Path

from experiments import UserError
from studies.study import load_studies

try:
    STUDIES = load_studies(Path(__file__).parent)
except UserError as error:  # every command comes here before it can parse: this one line serves them all
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None
