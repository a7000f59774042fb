"""How long a converter is retained at least: noted in the journal, and never shortened."""

from archivefs import config as configuration
from archivefs.archive import Archive
from archivefs.config import Config
from archivefs.errors import RetentionError
from archivefs.retention.operations import Retain


def later(archive: Archive, config: Config) -> list[Retain]:
    """What is to be noted of a configuration that is in force."""
    noted = archive.reader.purges.retained()
    wanted = {name: config.policy(name).retain_until for name in _names(archive, config)}
    return [Retain(name, until) for name, until in wanted.items() if until > noted.get(name, "")]


def shortened(archive: Archive, config: Config) -> dict[str, str]:
    """By converter: until when it stays retained, though the configuration says less, or nothing."""
    noted = archive.reader.purges.retained()
    names = _names(archive, config)
    return {name: until for name, until in noted.items() if name in names
            and config.policy(name).retain_until < until}  # fmt: skip


def changes(archive: Archive, data: bytes) -> list[Retain]:
    """What a new archive.toml makes to be noted. Raises ``ConfigError``, ``RetentionError``."""
    new = configuration.parse(data, str(archive.root / configuration.FILE))
    before = shortened(archive, archive.config)
    for name, until in shortened(archive, new).items():
        if name not in before or new.policy(name).retain_until < archive.config.policy(name).retain_until:
            now = new.policy(name).retain_until or "gone"
            raise RetentionError(
                f"retain_until of {name} is {now}, must stay {until} or later: never shortened"
            )
    return later(archive, new)


def _names(archive: Archive, config: Config) -> set[str]:
    return {*config.converters, *(total.converter for total in archive.reader.totals())}
