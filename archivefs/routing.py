"""Which converters may be the one for a file that was saved at the top of the inbox.

Names decide first: patterns in ``archive.toml``. Where they leave more than one, or none, converters are
asked how sure they are, after the file is archived.
"""

from archivefs import names
from archivefs.config import Config

UNROUTED = "unrouted"
"""The converter of what was saved at the top of the inbox, until another one is found; needs no table."""
ROUTING_REASON = "its converter is being looked for"
"""``reason`` of an entry whose converters are still to be asked."""


def candidates(config: Config, name: bytes) -> list[str]:
    """The converters that a file of this name may be for, as ``archive.toml`` orders them.

    Those with a pattern that fits; where there are none, those without patterns that can say how sure
    they are.
    """
    others = {
        each: table for each, table in config.converters.items() if each != UNROUTED and table.kind == "file"
    }
    fitting = [each for each, table in others.items() if names.matches(name, table.patterns)]
    return fitting or [
        each for each, table in others.items() if not table.patterns and table.run.startswith("python:")
    ]


def converter_for(config: Config, name: bytes) -> str:
    """The converter whose pattern alone fits the name, else ``UNROUTED``."""
    found = candidates(config, name)
    return found[0] if len(found) == 1 and config.converters[found[0]].patterns else UNROUTED
