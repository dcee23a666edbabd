"""docs/configuration.md, made from the configuration's types: `scripts/configuration-docs` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from esgbatch.config import model
from esgbatch.config.secrets import Secret

_HEAD = """\
# The configuration

<!-- Written by scripts/configuration-docs from esgbatch/config/model.py: change it there. -->

One TOML file: `--config F`, else `$ESGBATCH_CONFIG`, else `./esgbatch.toml`, else
`/etc/esgbatch/esgbatch.toml`. `esgbatch init` writes one to begin with, `esgbatch doctor` checks it.
Unknown keys are errors, and all errors are told at once. A key without a default must be there.

An environment variable overrides a key: `ESGBATCH_RATINGS__RATE_LIMIT=40` is `rate_limit` in `[ratings]`;
lists and tables are written as in TOML. A secret never stands in the file. It is one of `{ env = "NAME" }`,
`{ file = "/path" }` (refused where others can read it) and `{ command = ["pass", "show", "x"] }`.
"""

_KINDS: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    Path: "path",
    time: "HH:MM",
    Any: "anything",
}


def render() -> str:
    """The page."""
    return _HEAD + "".join(f"\n{line}" if line.startswith("## ") else line for line in _lines())


def _lines() -> Iterator[str]:
    for name, field in model.Config.model_fields.items():
        section = _section(field.annotation)
        assert section is not None, name
        yield from _table(name, section, optional=not field.is_required())


def _table(name: str, section: type[BaseModel], *, optional: bool) -> Iterator[str]:
    inner: list[tuple[str, type[BaseModel], bool]] = []
    yield f"## [{name}]\n\n"
    if not optional:
        yield "This section must be there.\n\n"
    yield "| key | what it takes | default | meaning |\n| --- | --- | --- | --- |\n"
    for key, field in section.model_fields.items():
        below = _section(field.annotation)
        if below is not None and not _is_inline(below):
            inner.append((f"{name}.{key}", below, True))
            continue
        yield f"| `{key}` | {_kind(field.annotation, field)} | {_default(field)} | {_meaning(field)} |\n"
    for each in inner:
        yield from _table(each[0], each[1], optional=each[2])


def _section(annotation: object) -> type[BaseModel] | None:
    """The table that a key is, if it is one; an optional one too."""
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
    if get_origin(annotation) in (None, Union, UnionType) and len(kinds) == 1:
        [kind] = kinds
        if isinstance(kind, type) and issubclass(kind, model.Section):
            return kind
    return None


def _is_inline(section: type[BaseModel]) -> bool:
    return section in (model.Backoff, model.Timeout)


def _kind(annotation: object, field: FieldInfo | None = None) -> str:
    """What a value looks like, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not NoneType]
        if all(isinstance(kind, type) and issubclass(kind, model.Section) for kind in kinds):
            return "; ".join(_inline(kind) for kind in kinds)
        return " or ".join(_kind(kind) for kind in kinds)
    if origin is list:
        if isinstance(arguments[0], type) and issubclass(arguments[0], model.Section):
            return f"tables, each {_inline(arguments[0])}"
        return f"list of {_kind(arguments[0])}"
    if origin is tuple:
        return "[lowest, highest]"
    if origin is dict:
        return "table"
    if annotation is Secret:
        return "secret"
    if isinstance(annotation, type) and issubclass(annotation, model.Section):
        return _inline(annotation)
    assert annotation in _KINDS, (annotation, field)
    return _KINDS[annotation]


def _inline(section: type[BaseModel]) -> str:
    """A small table on one line."""
    parts = []
    for key, field in section.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        shown = json.dumps(values[0]) if len(values) == 1 else "…"
        parts.append(f"{key} = {shown}")
    return f"`{{ {', '.join(parts)} }}`"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**needed**"
    if value is None:
        return ""
    return f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, time):
        return json.dumps(f"{value:%H:%M}")
    if isinstance(value, BaseModel):
        fields = {key: getattr(value, key) for key in type(value).model_fields}
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in fields.items()) + " }"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(str(value))


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")
