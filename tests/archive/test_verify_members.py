"""Rows of folder sources that are wrong in the catalog are found, and mended from the journal."""

import io
import os
from pathlib import Path

import pytest
from archive_parts import TOML, Clock, capture, commit, make
from test_verify_parts import content_of, everything_is_as_before, rows_but_meta, sql, verify

from archivefs.folders import contents, pack

DAMAGE = {
    "a wrong size": "UPDATE members SET size = size + 1 WHERE ordinal = 2",
    "a wrong path": "UPDATE members SET path = x'ff' WHERE ordinal = 1",
    "a wrong offset": "UPDATE members SET offset = 0",
    "a missing row": "DELETE FROM members WHERE ordinal = 2",
    "a row too much": "INSERT INTO members VALUES (1, 9, x'61', 33188, 0, 0, 0)",
    "all rows gone": "DELETE FROM members",
    "a wrong count": "UPDATE entries SET members = 0",
    "a wrong confidence": "UPDATE entries SET confidence = 0.5",
}


@pytest.fixture
def root(root: Path, tmp_path: Path) -> Path:
    """An archive of one folder with two files."""
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"measured")
    (folder / "raw.bin").write_bytes(os.urandom(3000))
    out = io.BytesIO()
    members = pack(os.fsencode(folder), contents(os.fsencode(folder)), out)
    with make(root, Clock(), TOML) as archive:
        commit(archive, capture(out.getvalue(), b"unit", members=members))
    return root


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_wrong_rows_of_a_folder_are_found_and_mended(statement: str, root: Path) -> None:
    content, catalog = content_of(root), rows_but_meta(root)
    sql(root, statement)
    found = verify(root)
    assert "catalog-differs" in found.checks, found
    mended = verify(root, "--repair")
    assert mended.code == 0, mended
    everything_is_as_before(root, content, catalog)
