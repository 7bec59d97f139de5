"""Runs a notebook and writes it with its outputs. Ends with an error if a cell raises.

run_notebook.py NOTEBOOK OUT
"""

import os
import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
# In its own folder, as a reader runs it.
NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": os.path.dirname(os.path.abspath(sys.argv[1]))}}).execute()
nbformat.write(notebook, sys.argv[2])
