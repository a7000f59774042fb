"""Changing the configuration of an open archive, by a command or because its file changed."""

from archivefs import config, settings
from archivefs.archive import Archive
from archivefs.events import Configured
from archivefs.operations import Note
from archivefs.parts import Actor, Setting


def begin(archive: Archive, data: bytes, actor: Actor) -> tuple[Note, list[Setting]]:
    """Stage ``data`` as archive.toml; returns its event, to be committed before ``settings.install``.

    And what changes: where that is nothing, nothing is staged. A stop at any point leaves the former file, or
    the new one and its event: ``settings.bring_up`` does the rest. Raises ``ConfigError`` for what is not
    allowed, ``OSError``.
    """
    new = config.parse(data, str(archive.root / config.FILE))
    archive.require_same_timezone(new)
    changes = settings.differences(archive.config, new)
    before, after = settings.sha256(config.read(archive.root)), settings.sha256(data)
    if changes:
        settings.stage(archive.root, data)
    return Note(Configured(changes=changes, before=before, after=after, actor=actor)), changes


def read_again(archive: Archive) -> Configured:
    """Go by archive.toml as it is now; returns the event that is to be noted, with no changes where none are.

    What runs goes on with what it began with. Raises ``ConfigError`` and changes nothing where the file is
    wrong or has another time zone, ``OSError``.
    """
    data, old = config.read(archive.root), archive.config
    archive.use(config.parse(data, str(archive.root / config.FILE)))
    return Configured(changes=settings.differences(old, archive.config), after=settings.sha256(data))
