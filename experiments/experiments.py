"""`python experiments/NAME.py` finds this file in place of the package; it puts the checkout on the path instead."""

import importlib
import os
import sys
from pathlib import Path

if __name__ == "experiments":
    root = str(Path(__file__).resolve().parents[1])
    sys.path[0] = root
    # for the processes that the command starts
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    del sys.modules[__name__]
    importlib.import_module(__name__)
