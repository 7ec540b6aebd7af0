"""Folders that belong to one process, also where a file system has no locks."""

import errno
import fcntl

import pytest

from lab.shell.files import locked


def test_a_folder_belongs_to_one_at_a_time(tmp_path):
    with locked(tmp_path / "a", wait=False) as first, locked(tmp_path / "a", wait=False) as second:
        assert (first, second) == (True, False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_a_run_goes_on(number, tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, wait=False) as mine:
        assert mine


def test_other_errors_of_a_lock_are_told(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), locked(tmp_path, wait=False):
        pass
