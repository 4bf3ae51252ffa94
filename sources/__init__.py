"""Where data come from: the known data sets, found on this machine or downloaded, verified and read.

`catalogue.py` describes every data set, and is all of this folder that a command line needs. `finding.py` looks for the
files of a data set, verifies their content against the checksums and reads them into arrays; `downloading.py` gets what
is not on this machine. Small real parts of two data sets lie in `samples/`, so that every command can be tried without
a network; `make_samples.py` made them. How images are split and become tensors is said in `data.py`, not here.
"""
