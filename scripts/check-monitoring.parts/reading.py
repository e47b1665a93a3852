"""Reads what is checked: the rules and their tests from YAML, the dashboard from JSON.

The YAML is read by a reader of our own, because Python has none: mappings and lists in block style, plain and quoted
scalars, `|` blocks, and `[]`. Anything else is an error, never a guess. Every scalar stays text.
"""

import json
import re


class Unreadable(Exception):
    """The file says something that this reader does not understand."""


class Yaml:
    def __init__(self, text):
        self.lines = text.split("\n")
        self.at = 0

    def error(self, what):
        return Unreadable(f"line {self.at + 1}: {what}: {self.lines[self.at].strip()!r}")

    def peek(self):
        """The next line that is not empty and no comment: its indentation and its text, or None at the end."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            text = line.strip()
            if text and not text.startswith("#"):
                if "\t" in line:
                    raise self.error("a tab")
                return len(line) - len(line.lstrip()), text
            self.at += 1
        return None

    def value(self, indent):
        found = self.peek()
        if found is None or found[0] < indent:
            raise self.error("a value is missing above") if found else Unreadable("the file ends where a value belongs")
        return self.sequence(found[0]) if found[1].startswith("- ") else self.mapping(found[0])

    def sequence(self, indent):
        items = []
        while (found := self.peek()) and found[0] == indent and found[1].startswith("- "):
            rest = found[1][2:].lstrip()
            if re.match(r"[\w.]+:( |$)", rest):
                # `- key: value` is a mapping that begins behind the dash.
                inner = len(self.lines[self.at]) - len(rest)
                self.lines[self.at] = " " * inner + rest
                items.append(self.mapping(inner))
            else:
                items.append(self.scalar(rest))
                self.at += 1
        return items

    def mapping(self, indent):
        result = {}
        while (found := self.peek()) and found[0] == indent and not found[1].startswith("- "):
            parts = re.fullmatch(r"([\w.]+):(?: +(.*))?", found[1])
            if not parts:
                raise self.error("neither a key nor an item")
            key, rest = parts.groups()
            if key in result:
                raise self.error("a key stands here twice")
            if rest is None or rest == "":
                self.at += 1
                # A list may stand as far left as its key.
                below = self.peek()
                same = below is not None and below[0] == indent and below[1].startswith("- ")
                result[key] = self.sequence(indent) if same else self.value(indent + 1)
            elif rest == "|":
                self.at += 1
                result[key] = self.block(indent)
            else:
                result[key] = self.scalar(rest)
                self.at += 1
        if (found := self.peek()) and found[0] > indent:
            raise self.error("indented further than what it belongs to")
        return result

    def block(self, indent):
        lines = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                break
            lines.append(line.strip())
            self.at += 1
        return "\n".join(lines).strip()

    def scalar(self, text):
        if text == "[]":
            return []
        if text[0] == '"':
            try:
                return json.loads(text)
            except ValueError:
                raise self.error("not a quoted text") from None
        if text[0] == "'":
            if not re.fullmatch(r"'(?:[^']|'')*'", text):
                raise self.error("not a quoted text")
            return text[1:-1].replace("''", "'")
        if text[0] in "[{&*!>|%@`?" or " #" in text or ": " in text:
            raise self.error("this reader does not know such a value")
        return text


def yaml(path):
    with open(path, encoding="utf-8") as file:
        reader = Yaml(file.read())
    try:
        result = reader.value(0)
        if reader.peek() is not None:
            raise reader.error("does not belong to what stands above")
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    return result


def rules(path):
    """All rules of a file in order, each a mapping with `alert` or `record`, and `expr`."""
    return [rule for group in yaml(path)["groups"] for rule in group["rules"]]


def dashboard(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def panels(board):
    """All panels, also those inside rows, rows included."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def without_variables(expr, rate_interval="5m"):
    """The expression with what Grafana would put in the place of its variables."""
    for variable, value in (("$__rate_interval", rate_interval), ("$job", ".+"), ("$instance", ".+")):
        expr = expr.replace(variable, value)
    return expr
