"""Changing the configuration of an open archive, by a command or because its file changed."""

from archivefs import config, settings
from archivefs.archive import Archive
from archivefs.events import Actor, Configured, Setting
from archivefs.operations import Note


def write(archive: Archive, data: bytes, actor: Actor) -> list[Setting]:
    """Make ``data`` the archive.toml, and note what changed; returns that, nothing where nothing did.

    A stop at any point leaves the former file, or the new one and its event: ``settings.bring_up`` does the
    rest. Raises ``ConfigError`` for what is not allowed, ``ArchiveError``, ``OSError``.
    """
    new = config.parse(data, str(archive.root / config.FILE))
    archive.require_same_timezone(new)
    changes = settings.differences(archive.config, new)
    if changes:
        before, after = settings.sha256(config.read(archive.root)), settings.sha256(data)
        settings.stage(archive.root, data)
        archive.commit_one(Note(Configured(changes=changes, before=before, after=after, actor=actor)))
        settings.install(archive.root)
        archive.use(new)
    return changes


def read_again(archive: Archive) -> Configured:
    """Go by archive.toml as it is now; returns the event that is to be noted, with no changes where none are.

    What runs goes on with what it began with. Raises ``ConfigError`` and changes nothing where the file is
    wrong or has another time zone, ``OSError``.
    """
    data, old = config.read(archive.root), archive.config
    archive.use(config.parse(data, str(archive.root / config.FILE)))
    return Configured(changes=settings.differences(old, archive.config), after=settings.sha256(data))
