"""The page /docs: the OpenAPI document for people, as plain HTML that loads nothing from elsewhere.

It takes no keys and sends no requests, so it refuses to be a client: that is curl's work.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: #f4f4f2; padding: .7em; overflow-x: auto }
table { border-collapse: collapse; margin: .6em 0 }
td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: left; vertical-align: top }
section { border-top: 1px solid #ccc; margin-top: 1.5em }
"""


def docs_page(document: dict[str, Any]) -> bytes:
    """UTF-8 HTML of every operation and every schema of an OpenAPI 3.1 document of ours."""
    info = document["info"]
    operations = [
        (path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()
    ]
    listed = "".join(
        f'<li><a href="#{escape(one["operationId"])}"><code>{method.upper()} {escape(path)}</code></a> '
        f"{escape(one['summary'])}</li>"
        for path, method, one in operations
    )
    body = "".join(_operation(path, method, one) for path, method, one in operations)
    schemas = "".join(
        f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>{_json(schema)}'
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f'<p>{escape(info["summary"])}. For programs: <a href="openapi.json">openapi.json</a>. '
        f"A key goes in the header <code>Authorization: Bearer KEY</code>.</p>"
        f"<ul>{listed}</ul>{body}<section><h2>Schemas</h2>{schemas}"
        "</section></body></html>\n"
    ).encode()


def _operation(path: str, method: str, one: dict[str, Any]) -> str:
    keys = {0: "no key", 1: "an admin key", 2: "a key, if the service has any"}[len(one.get("security", []))]
    parts = [
        f'<section id="{escape(one["operationId"])}"><h2><code>{method.upper()} {escape(path)}</code></h2>',
        f"<p>{escape(one['summary'])}. Needs {keys}.</p>",
    ]
    if one["parameters"]:
        rows = "".join(
            f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td><td>{_plain(each['schema'])}</td>"
            f"<td>{escape(each.get('description', ''))}</td></tr>"
            for each in one["parameters"]
        )
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{rows}</table>")
    if "requestBody" in one:
        parts.append(f"<p>Body: {_named(one['requestBody']['content'])}</p>")
    answers = "".join(
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{_named(answer['content'])}</td></tr>"
        for status, answer in sorted(one["responses"].items())
    )
    parts.append(f"<table><tr><th>status</th><th></th><th>body</th></tr>{answers}</table></section>")
    return "".join(parts)


def _named(content: dict[str, Any]) -> str:
    name = escape(content["application/json"]["schema"]["$ref"].rpartition("/")[2])
    return f'<a href="#schema-{name}">{name}</a>'


def _plain(schema: dict[str, Any]) -> str:
    return f"<code>{escape(', '.join(f'{name}: {value}' for name, value in schema.items()))}</code>"


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"
