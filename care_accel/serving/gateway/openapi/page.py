"""The description as a page of HTML, without script and without any other host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from care_accel.serving.gateway.errors import CODES


def render(description: dict[str, Any]) -> str:
    """Return the page of a description by `care_accel.serving.gateway.openapi.description.describe`."""
    return _Page(description).whole()


class _Page:
    def __init__(self, description: dict[str, Any]) -> None:
        self._all = description

    def whole(self) -> str:
        info = self._all["info"]
        operations = [
            (method, path, operation)
            for path, methods in self._all["paths"].items()
            for method, operation in methods.items()
        ]
        parts = []
        for tag in self._all["tags"]:
            parts.append(f"<h2>{escape(tag['name'])}</h2><p>{_prose(tag['description'])}</p>")
            parts += [self._operation(*one) for one in operations if tag["name"] in one[2]["tags"]]
        links = "".join(
            f'<li><a href="#{one["operationId"]}"><code>{method.upper()} {escape(path)}</code></a></li>'
            for method, path, one in operations
        )
        codes = "".join(
            f"<tr><td><code>{code}</code></td><td>{_prose(text)}</td></tr>" for code, text in CODES.items()
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(info['title'])}</title>"
            '<link rel="icon" href="icon.svg" type="image/svg+xml">'
            '<link rel="stylesheet" href="style.css"><link rel="stylesheet" href="docs.css"></head><body>'
            f'<header><div><h1><img src="icon.svg" alt="" width="28" height="28">{escape(info["title"])}</h1>'
            f"<p>{escape(info['summary'])}</p></div></header><main>"
            f"<p>{_prose(info['description'])} {self._access()}</p>"
            '<p><a href="openapi.json">openapi.json</a> describes the same in OpenAPI '
            f"{self._all['openapi']}, for tools. In the examples <code>GATEWAY</code> is the address of this page without "
            f'<code>/docs</code>. <a href="./">Demo page</a>.</p>'
            f"<nav><ul>{links}</ul></nav>{''.join(parts)}"
            f'<h2 id="codes">Codes of errors</h2><div class="wide"><table><tbody>{codes}</tbody></table></div></main>'
            f'<footer><p class="note">care_accel {escape(info["version"])}</p></footer></body></html>'
        )

    def _access(self) -> str:
        if not self._all["components"]["securitySchemes"]:
            return "No token is required."
        return "Routes that need a token take it as <code>Authorization: Bearer TOKEN</code>."

    def _operation(self, method: str, path: str, operation: dict[str, Any]) -> str:
        name = operation["operationId"]
        parts = [
            f'<section id="{name}" aria-labelledby="{name}-title"><h3 id="{name}-title">'
            f'<span class="method {method}">{method.upper()}</span> <code>{escape(path)}</code></h3>'
            f"<p>{_prose(operation['summary'])}."
        ]
        if "description" in operation:
            parts.append(f" {_prose(operation['description'])}")
        parts.append("</p>")
        if operation["security"]:
            write = all("writeToken" in one for one in operation["security"])
            parts.append(f'<p class="note">Needs a {"write " if write else ""}token.</p>')
        parts += [
            f"<p><code>{{{escape(one['name'])}}}</code> {_prose(one['description'])}</p>"
            for one in operation.get("parameters", ())
        ]
        if body := operation.get("requestBody"):
            kinds = list(body["content"])
            parts.append(f'<h4>Request <span class="note">{escape(", ".join(kinds))}</span></h4>')
            parts.append(self._table(body["content"][kinds[0]]["schema"]))
            parts += [
                f"<pre>{escape(self._curl(method, path, operation, example['value']))}</pre>"
                for example in body["content"][kinds[0]].get("examples", {}).values()
            ]
        (kind, answer), *_ = operation["responses"]["200"]["content"].items()
        parts.append(f'<h4>Response <span class="note">{escape(kind)}</span></h4>')
        parts.append(self._table(answer["schema"]))
        errors = "".join(
            f"<li><code>{status}</code> {_prose(self._resolved(one)['description'])}</li>"
            for status, one in operation["responses"].items()
            if status != "200"
        )
        parts.append(f"<details><summary>Errors</summary><ul>{errors}</ul></details></section>")
        return "".join(parts)

    def _curl(self, method: str, path: str, operation: dict[str, Any], value: Any) -> str:
        token = "-H 'Authorization: Bearer TOKEN' " if operation["security"] else ""
        body = json.dumps(value, ensure_ascii=False).replace("'", "'\\''")
        return (
            f"curl -X {method.upper()} GATEWAY{path} {token}\\\n"
            f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
        )

    def _resolved(self, value: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in value:
            found: Any = self._all
            for key in value["$ref"].removeprefix("#/").split("/"):
                found = found[key]
            value = found
        return value

    def _table(self, schema: dict[str, Any]) -> str:
        rows = "".join(
            f"<tr><td><code>{escape(name)}</code>{' <b>required</b>' if required else ''}</td><td>{escape(kind)}</td>"
            f"<td>{_prose(text)}</td></tr>"
            for name, kind, required, text in self._rows(
                schema, "", mark=schema.get("$ref", "").endswith("Request")
            )
        )
        return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>' if rows else ""

    def _rows(
        self, schema: dict[str, Any], before: str, *, mark: bool
    ) -> Iterator[tuple[str, str, bool, str]]:
        schema = self._resolved(schema)
        for name, value in schema.get("properties", {}).items():
            value = self._resolved(value)
            yield (
                before + name,
                self._kind(value),
                mark and name in schema.get("required", ()),
                " ".join(filter(None, (value.get("description"), _limits(value)))),
            )
            yield from self._rows(value, f"{before}{name}.", mark=mark)
            items = self._resolved(value.get("items", {}))
            for one in (items, *items.get("anyOf", ())):
                yield from self._rows(one, f"{before}{name}[].", mark=mark)
            if isinstance(more := value.get("additionalProperties"), dict):
                yield from self._rows(more, f"{before}{name}.*.", mark=False)

    def _kind(self, value: dict[str, Any]) -> str:
        value = self._resolved(value)
        if "const" in value:
            return json.dumps(value["const"])
        if "enum" in value:
            return " | ".join(json.dumps(one) for one in value["enum"] if one is not None)
        if "anyOf" in value:
            return " or ".join(self._kind(one) for one in value["anyOf"])
        kinds = value.get("type", "any")
        kinds = [kinds] if isinstance(kinds, str) else [one for one in kinds if one != "null"]
        if kinds == ["array"]:
            return f"list of {self._kind(value['items'])}"
        return " or ".join(kinds)


def _limits(value: dict[str, Any]) -> str:
    names = {
        "default": "Default",
        "minimum": "at least",
        "maximum": "at most",
        "maxItems": "items at most",
        "maxLength": "characters at most",
    }
    found = [
        f"{text} {value[name]}" for name, text in names.items() if value.get(name) not in (None, 0, False)
    ]
    return f"({', '.join(found)})" if found else ""


def _prose(text: str) -> str:
    """Return a text as HTML, with what is in backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
