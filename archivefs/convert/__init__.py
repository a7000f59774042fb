"""What a converter is written with: ``from archivefs.convert import Context, Result, Source, Validation``."""

from archivefs.convert.protocol import Context, Result, Source, Validation

__all__ = ["Context", "Result", "Source", "Validation"]
