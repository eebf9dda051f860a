"""Disks that are full, for tests of what is written."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small(directory, size):
    """A file system of that many bytes at `directory`, where the tests may mount one.

    Gives what makes it larger.
    """
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def grow(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(directory)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
