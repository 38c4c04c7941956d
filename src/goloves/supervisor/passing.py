"""A configuration on its way to a node, which may be of another version than the supervisor that read it.

Only what differs from its default is passed. So a node meets a setting that it does not know only where somebody set
it, and then it refuses to start and names it: what was asked for is never silently left out, and a setting that a
version merely adds is in nobody's way.
"""

from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


def passed(settings: msgspec.Struct) -> msgspec.Raw:
    """Encode settings for `received`."""
    return msgspec.Raw(msgspec.json.encode(_set(settings)))


def received(data: msgspec.Raw, kind: type[S]) -> S:
    """Decode settings. Raises msgspec.ValidationError, which names what this version does not know."""
    return msgspec.json.decode(data, type=kind)


def _set(settings: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if value != (field.default if field.default is not msgspec.NODEFAULT else _made(field)):
            found[field.encode_name] = _plain(value)
    return found


def _made(field: msgspec.structs.FieldInfo) -> object:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else msgspec.NODEFAULT


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _set(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value
