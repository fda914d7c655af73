"""Parameters of a task: a record with a default, a range and a sentence for each, from which all else is made.

A task's module of figures has a record ``Parameters`` that derives from the one here. Its defaults are those of the
definition, ``--param TASK.NAME=VALUE`` changes one of them within its range, and ``sae-bench show TASK`` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from sae_bench.errors import TaskError
from sae_bench.schema import Record

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class TaskParameters(Record):
    """Base of a task's parameters: one annotated field each, with a default and a ``description``."""

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every parameter with its default, as plain JSON."""
        return cls().model_dump(mode="json")

    @classmethod
    def of(cls, task: str, values: Mapping[str, Any]) -> Any:
        """The record with these values. Raises TaskError with one sentence: what must hold, and what came."""
        for name, value in values.items():
            if isinstance(value, bool) and not isinstance(getattr(cls(), name, False), bool):
                raise TaskError(f"task {task}: {cls.must(name)}, not {value!r}")  # True would pass for 1
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            if name not in cls.model_fields:  # what two parameters must be together
                raise TaskError(f"task {task}: {first['msg'].removeprefix('Value error, ')}") from error
            raise TaskError(f"task {task}: {cls.must(name)}, not {values.get(name)!r}") from error

    @classmethod
    def must(cls, name: str) -> str:
        """What must hold of a parameter, as the beginning of a sentence: "latents must be a whole number of ..."."""
        return f"{name} must be {_kind(cls.model_json_schema()['properties'][name])}"

    @classmethod
    def about(cls, name: str) -> str:
        """What a parameter does."""
        return cls.model_fields[name].description or ""


def _kind(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return "a list, each " + _kind(schema["items"])
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if schema.get("type") == "integer":
        return "a whole number" + (f" of at least {low}" if low is not None else "")
    if schema.get("type") == "number":
        if (above, high) == (0, 1):
            return "a share above 0 and up to 1"
        if above == 0:
            return "positive"
        return "a number" + (f" of at least {low:g}" if low is not None else "")
    return {"string": "text", "boolean": "true or false"}.get(str(schema.get("type")), "of another kind")
