import os
import re
import subprocess
import sys
from pathlib import Path

import unlearnjax
from configs import unlearn as config_lib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs_and_forgets(tfds_dir):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "TFDS_DATA_DIR": str(tfds_dir)},
    )
    assert result.returncode == 0, result.stderr
    accuracy = float(re.search(r"forgotten class: ([\d.]+)", result.stdout)[1])
    assert accuracy < 0.05


def test_every_method_of_the_default_config_is_in_the_table():
    for name in config_lib.METHODS:
        assert f"| `{name}` |" in README


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_version_is_one():
    setup = (ROOT / "setup.cfg").read_text()
    assert f"version = {unlearnjax.__version__}\n" in setup
    assert f"version: {unlearnjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
