"""Real mounts: without /dev/fuse there is nothing to test, and in CI that is a failure."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mount_parts import Make, Mounted, an_archive


@pytest.fixture(scope="session", autouse=True)
def _fuse() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"nothing can be mounted here, because /dev/fuse cannot be used: {error.strerror}"
        if "CI" in os.environ:
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Make]:
    """Makes archives and mounts them; takes each down and checks it when the test is over.

    The arguments are those of ``an_archive`` without the folder.
    """
    with ExitStack() as stack:

        def make(*arguments: Any, **more: Any) -> Mounted:  # noqa: ANN401  those of an_archive
            folder = tmp_path / f"station {len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(an_archive(folder, *arguments, **more))

        yield make
