"""Converters as they are written for the pyWATS client."""

from datetime import timedelta
from typing import Any

from pywats_client.converters.file_converter import FileConverter
from pywats_client.converters.models import (
    ArgumentDefinition,
    ArgumentType,
    ConversionStatus,
    ConverterResult,
    ValidationResult,
)


class Model:
    """Dumps itself as pydantic's models do."""

    def model_dump(self, *, mode: str, by_alias: bool, exclude_none: bool) -> dict[str, Any]:
        """As JSON, by alias, without what is None."""
        return {"model": [mode, by_alias, exclude_none]}


class Told(FileConverter):
    """Does what the first line of its source says."""

    @property
    def version(self) -> str:
        return "2.1"

    @property
    def arguments_schema(self) -> dict[str, Any]:
        return {
            "delimiter": ArgumentDefinition(ArgumentType.CHOICE, default=",", choices=[",", ";"]),
            "columns": ArgumentDefinition(ArgumentType.INTEGER, min_value=1),
        }

    def validate(self, source: Any, context: Any) -> ValidationResult:
        word = source.path.read_text().split()[0]
        verdicts = {
            "foreign": ValidationResult(False, 0.0, message="not mine"),
            "doubtful": ValidationResult(True, 0.1, message="hardly mine"),
            "unsure": ValidationResult(True, 0.4, message="perhaps mine", warnings=["an odd header"]),
            "early": ValidationResult(
                True, 0.9, ready=False, missing_dependencies=["limits.xml"], retry_after=timedelta(minutes=2)
            ),
        }
        return verdicts.get(word, ValidationResult(True, 0.9, detected_serial_number="SN1"))

    def convert(self, source: Any, context: Any) -> ConverterResult:
        word = source.path.read_text().split()[0]
        if word == "one":
            return ConverterResult(ConversionStatus.SUCCESS, report={"by": context.get_argument("delimiter")})
        if word == "both":
            first: dict[str, Any] = {"first": 1}
            facts = {"metadata": {"lot": 7}, "processing_time_ms": 12, "records_processed": 3}
            return ConverterResult(ConversionStatus.SUCCESS, first, [first, {"second": 2}], **facts)
        if word == "more":
            return ConverterResult(ConversionStatus.SUCCESS, {"first": 1}, [{"second": 2}])
        if word == "model":
            return ConverterResult(ConversionStatus.SUCCESS, report=Model())
        if word == "list":
            return ConverterResult(ConversionStatus.SUCCESS, report=[{"a": 1}, Model()])
        if word == "text":
            return ConverterResult(ConversionStatus.SUCCESS, report="no report")
        if word == "suspended":
            return ConverterResult(
                ConversionStatus.SUSPENDED, suspend_reason="later", retry_after=timedelta(seconds=90)
            )
        if word in ("failed", "skipped", "rejected"):
            return ConverterResult(ConversionStatus(word), error=f"it {word}", warnings=["careful"])
        return ConverterResult(ConversionStatus.SUCCESS, reports=[{"a": 1}, {"b": 2}])
