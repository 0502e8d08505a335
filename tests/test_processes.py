"""Helpers of the tests: what a command started does not outlive its time limit."""

import os
import select
import subprocess

import pytest
from processes import launch, until


def test_a_command_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "held")
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    plain = subprocess.Popen.communicate

    def expire(process, given=None, timeout=None):
        if timeout is None:
            return plain(process)
        until((tmp_path / "started").exists, "the command's own process")
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", expire)
    # All processes hold the pipe's end: it ends with the last of them.
    command = ["sh", "-c", "exec 3> held; sleep 60 & touch started; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        launch(command, tmp_path)
    ended, _, _ = select.select([reader], [], [], 20)
    os.close(reader)
    assert ended
