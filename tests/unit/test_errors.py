"""Errors own their exit code and errno; exit codes are unique."""

import errno
from collections import Counter

import pytest

from archivefs import errors
from archivefs.errors import ArchiveError, CaptureFailedError


def all_errors() -> list[type[ArchiveError]]:
    found = [ArchiveError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_exit_codes_are_unique() -> None:
    codes = Counter(kind.exit_code for kind in all_errors())
    assert [code for code, count in codes.items() if count > 1] == []


def test_exit_codes_mean_nothing_else_to_a_shell() -> None:
    assert all(2 < kind.exit_code < 126 for kind in all_errors())


@pytest.mark.parametrize("kind", all_errors())
def test_every_class_has_an_errno_and_says_what_it_is_for(kind: type[ArchiveError]) -> None:
    assert kind.errno in errno.errorcode
    assert kind.__doc__


@pytest.mark.parametrize("kind", all_errors())
def test_the_message_is_what_the_user_reads(kind: type[ArchiveError]) -> None:
    assert str(kind("the disk is full")) == "the disk is full"


def test_an_error_without_words_says_its_name() -> None:
    assert str(errors.LockedError()) == "LockedError"


def test_a_failed_capture_carries_the_true_errno() -> None:
    error = CaptureFailedError("writing failed", errno.ENOSPC)
    assert (str(error), error.os_errno) == ("writing failed", errno.ENOSPC)
