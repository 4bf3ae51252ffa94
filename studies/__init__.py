"""The studies: `STUDIES` is {name: study}, with every study that a file in this folder defines.

A study is plain data: its experiments, and what an original published and claimed. Five studies repeat published
assignments. Their experiments are of three kinds: *as run* repeats the original's code, mistakes included; *corrected*
resolves a difference between code and write-up, or a confounded comparison; *control* adds a control that the original
lacked. The claims are taken from the write-ups, in our words. To add your own study, add a file to this folder; no
other file has to be edited.
"""

import sys
from pathlib import Path

from experiments import UserError
from studies._loading import load_studies

try:
    STUDIES = load_studies(Path(__file__).parent)
except UserError as error:  # every command imports this before it parses, so this message serves them all
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None
