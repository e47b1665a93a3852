"""Reads what a node exposes on /metrics: OpenMetrics text."""

import re

SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: # .*)?')
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')
# Suffixes of the series that a family of this type has.
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_sum", "_count"],
    "info": ["_info"],
    "unknown": [""],
}


class Exposition:
    """The series of one or more nodes. names: those of families that are declared; labels: of each name with a sample,
    its labels with their values."""

    def __init__(self):
        self.names = set()
        self.labels = {}
        self.samples = 0

    def add(self, text):
        """Adds what one node answered; returns what is wrong with it."""
        problems = []
        lines = text.split("\n")
        if lines[-2:] != ["# EOF", ""]:
            problems.append("the text does not end with # EOF")
        expected = set()
        for line in lines[:-2]:
            if declared := re.fullmatch(r"# TYPE (\S+) (\S+)", line):
                family, kind = declared.groups()
                if kind not in SUFFIXES:
                    problems.append(f"{family} is of the type {kind}")
                expected = {family + suffix for suffix in SUFFIXES.get(kind, [""])}
                if expected & self.names and text.count(line + "\n") > 1:
                    problems.append(f"{family} is there twice")
                self.names |= expected
            elif line.startswith("# HELP ") or line.startswith("# UNIT "):
                pass
            elif found := SAMPLE.fullmatch(line):
                name, labels, value = found.groups()
                if name not in expected:
                    problems.append(f"{name} stands below another family")
                try:
                    float(value)
                except ValueError:
                    problems.append(f"{name} has the value {value}")
                self.samples += 1
                known = self.labels.setdefault(name, {})
                for label, content in LABEL.findall(labels or ""):
                    known.setdefault(label, set()).add(content)
            else:
                problems.append(f"not understood: {line[:80]!r}")
        return problems


def classic(text):
    """The same in the classic format, which is all that `promtool check metrics` reads: there a counter's family has
    the name of its series."""
    counters = set(re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE))
    infos = set(re.findall(r"^# TYPE (\S+) info$", text, re.MULTILINE))
    lines = []
    for line in text.split("\n"):
        if found := re.match(r"# (HELP|TYPE|UNIT) (\S+) (.*)", line):
            word, family, rest = found.groups()
            if word == "UNIT":
                continue
            if family in infos:
                family, rest = family + "_info", rest if word == "HELP" else "gauge"
            line = f"# {word} {family + '_total' if family in counters else family} {rest}"
        if line != "# EOF":
            lines.append(line)
    return "\n".join(lines)
