"""How contents are compressed now: the level and the dictionary of each converter."""

from pathlib import Path

from archivefs.config import Config, ConverterConfig
from archivefs.store.dictionaries import Dictionary
from archivefs.store.frames import Encoded, encode_bytes, encode_file

SOURCES, REPORTS = "sources", "reports"
"""The two kinds of segments, and of dictionaries; logs lie among the reports."""


class Packing:
    """Compresses; may be used from any thread. ``use`` is called by the committing thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._current: dict[tuple[str, str], Dictionary] = {}

    def use(self, converter: str, kind: str, dictionary: Dictionary) -> None:
        """From now on, compress contents of that kind with this dictionary."""
        self._current[converter, kind] = dictionary

    def dictionary(self, converter: str, kind: str) -> Dictionary | None:
        """The dictionary in use, None for none."""
        return self._current.get((converter, kind))

    def _level(self, converter: str) -> int:
        return self.config.converters.get(converter, ConverterConfig()).compression_level

    def bytes(self, converter: str, kind: str, content: bytes) -> Encoded:
        """Compress and hash what is in memory."""
        return encode_bytes(content, self._level(converter), self.dictionary(converter, kind))

    def file(self, converter: str, fd: int, spool_dir: Path) -> Encoded:
        """Compress and hash a source in a file, in constant memory. Raises as ``frames.encode_file``."""
        return encode_file(fd, self._level(converter), spool_dir, self.dictionary(converter, SOURCES))
