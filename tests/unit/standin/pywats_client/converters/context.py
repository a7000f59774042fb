"""The context of a conversion."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ConverterContext:
    """What the adapter fills in."""

    alarm_threshold: float = 0.5
    reject_threshold: float = 0.2
    arguments: dict[str, Any] = field(default_factory=dict)

    def get_argument(self, name: str, default: object = None) -> object:
        """An argument, or the default."""
        return self.arguments.get(name, default)
