"""Data sources: the known data sets, found on this machine or downloaded, then verified and read.

`catalogue.py` describes every data set; a command needs no other file of this folder to read its arguments.
`finding.py` looks for the files of a data set, and `contents.py` knows them by their checksums and reads them into
arrays. `own.py` reads data sets of one's own. `downloading.py` downloads data sets that are not on this machine.
`samples/` holds small parts of two data sets, so that every command can be tried without a network; `make_samples.py`
made them. `data.py`, in the folder above, splits the images and turns them into tensors.
"""
