"""The commands: `python -m experiments.NAME`."""

import sys
from importlib import util

_NEEDED = ("absl", "matplotlib", "ml_collections", "rich", "tensorboardX")
_missing = ", ".join(name for name in _NEEDED if util.find_spec(name) is None)
if _missing:
    _each = _missing.replace(",", "")
    sys.exit(f"error: experiments need {_missing}, which is not installed: pip install {_each}")
