from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from ml_collections import ConfigDict

from experiments.common import runner


@pytest.mark.parametrize(
    ("forget", "folder"),
    [
        ("class:3", "class-3"),
        ("part:3:0.5", "part-3-0.5"),
        ("class:3+5", "class-3+5"),
        ("field:name:a-b", "field-name-a%2Db"),
        ("field:name:a/b", "field-name-a%2Fb"),
        ("field:name:a%2Fb", "field-name-a%252Fb"),
    ],
)
def test_forget_sets_have_folders_of_their_own(forget, folder):
    assert runner.folder(forget) == folder


def test_the_bar_says_what_is_being_compiled_in_any_thread(tmp_path):
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    run.start(1)
    shown = lambda: run.progress.tasks[0].fields["compiling"]
    together, seen = Barrier(3), []

    def compile_one(name):
        with run.compiling(name):
            together.wait(60)  # both are in
            together.wait(60)  # what is shown has been read

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(compile_one, name) for name in ("ssd", "scrub")]
        together.wait(60)
        seen.append(shown())
        together.wait(60)
        [one.result() for one in done]
    run.close()
    assert seen[0] in ("compiling ssd, scrub", "compiling scrub, ssd") and shown() == ""
