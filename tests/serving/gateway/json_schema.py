"""A plain reading of JSON Schema, as far as the gateway's description uses it."""

_KINDS = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
_NOTES = {"description", "default", "contentEncoding"}


def problems(value, schema, whole, where="$"):
    """Return what of a value is not as a schema says, as lines; ``whole`` is the description that references are in."""
    schema = resolved(schema, whole)
    found = []
    for keyword, rule in schema.items():
        if keyword not in _NOTES:
            found += _CHECKS[keyword](value, rule, schema, whole, where)
    return found


def resolved(schema, whole):
    """Return what a schema or a reference to one is."""
    while "$ref" in schema:
        target = schema["$ref"]
        assert target.startswith("#/")
        schema = whole
        for key in target[2:].split("/"):
            schema = schema[key]
    return schema


def _is(value, kind):
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])


def _type(value, rule, schema, whole, where):
    kinds = [rule] if isinstance(rule, str) else rule
    return [] if any(_is(value, kind) for kind in kinds) else [f"{where} is no {rule}"]


def _same(value, other):
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _enum(value, rule, schema, whole, where):
    return [] if any(_same(value, one) for one in rule) else [f"{where} is not one of {rule}"]


def _any(value, rule, schema, whole, where):
    return [] if any(not problems(value, one, whole) for one in rule) else [f"{where} is none of {rule}"]


def _one(value, rule, schema, whole, where):
    return (
        []
        if sum(not problems(value, one, whole) for one in rule) == 1
        else [f"{where} is not just one of {rule}"]
    )


def _properties(value, rule, schema, whole, where):
    if not isinstance(value, dict):
        return []
    return [
        line
        for name in rule.keys() & value.keys()
        for line in problems(value[name], rule[name], whole, f"{where}.{name}")
    ]


def _additional(value, rule, schema, whole, where):
    if not isinstance(value, dict) or rule is True:
        return []
    others = value.keys() - schema.get("properties", {}).keys()
    if rule is False:
        return [f"{where} has {sorted(others)}"] if others else []
    return [line for name in others for line in problems(value[name], rule, whole, f"{where}.{name}")]


def _required(value, rule, schema, whole, where):
    missing = set(rule) - value.keys() if isinstance(value, dict) else set()
    return [f"{where} has no {sorted(missing)}"] if missing else []


def _names(value, rule, schema, whole, where):
    names = value if isinstance(value, dict) else ()
    return [line for name in names for line in problems(name, rule, whole, f"{where}: {name}")]


def _items(value, rule, schema, whole, where):
    items = enumerate(value) if isinstance(value, list) else ()
    return [line for place, item in items for line in problems(item, rule, whole, f"{where}[{place}]")]


def _limit(kinds, measure, fits):
    def check(value, rule, schema, whole, where):
        counts = isinstance(value, kinds) and not isinstance(value, bool)
        return [] if not counts or fits(measure(value), rule) else [f"{where} is beyond {rule}"]

    return check


_CHECKS = {
    "type": _type,
    "enum": _enum,
    "const": lambda value, rule, *more: _enum(value, [rule], *more),
    "anyOf": _any,
    "oneOf": _one,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "propertyNames": _names,
    "items": _items,
    "minItems": _limit(list, len, lambda size, limit: size >= limit),
    "maxItems": _limit(list, len, lambda size, limit: size <= limit),
    "minLength": _limit(str, len, lambda size, limit: size >= limit),
    "maxLength": _limit(str, len, lambda size, limit: size <= limit),
    "minimum": _limit(int | float, lambda number: number, lambda number, limit: number >= limit),
    "maximum": _limit(int | float, lambda number: number, lambda number, limit: number <= limit),
}
