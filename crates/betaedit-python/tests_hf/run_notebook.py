"""Runs a notebook and writes it with its outputs. Ends with an error if a cell raises.

run_notebook.py NOTEBOOK OUT
"""

import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1200).execute()
nbformat.write(notebook, sys.argv[2])
