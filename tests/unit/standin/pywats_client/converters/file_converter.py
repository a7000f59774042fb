"""The base class of converters."""

from typing import Any

from pywats_client.converters.models import ValidationResult


class FileConverter:
    """What converters inherit."""

    version = "1.0"

    @property
    def arguments_schema(self) -> dict[str, Any]:
        """No arguments."""
        return {}

    def validate(self, source: Any, context: Any) -> ValidationResult:
        """Takes everything."""
        return ValidationResult(True, 0.9)
