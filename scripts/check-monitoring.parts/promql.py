"""Finds the series that an expression selects, and inside which functions. promtool says whether it parses at all.

Aggregations must have their labels in front, as in `sum by (job) (…)`; the other order is refused.
"""

import re

TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>(?:\d+(?:ms|[smhdwy]))+|0x[0-9a-fA-F]+|\d+\.?\d*(?:e[+-]?\d+)?)
    |(?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|==|!=|<=|>=|[-+*/%^<>=(){}\[\],:@])""",
    re.VERBOSE,
)
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar"}
AGGREGATIONS |= {"topk", "bottomk", "quantile", "count_values"}
LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}


class Odd(Exception):
    """The expression is written in a way that is not looked through here."""


class Call:
    """A function or aggregation around a series. labels: what an aggregation keeps, None when it has no list."""

    def __init__(self, name, grouping=None, labels=None):
        self.name, self.grouping, self.labels = name, grouping, labels


class Series:
    def __init__(self, metric, inside):
        self.metric, self.inside = metric, inside
        # (label, operator, value)
        self.matchers = []

    def calls(self):
        return [call.name for call in self.inside]

    def literal(self, label):
        return next((value for name, sign, value in self.matchers if name == label and sign == "="), None)


def tokens(expr):
    at = 0
    while at < len(expr):
        found = TOKEN.match(expr, at)
        if not found:
            raise Odd(f"{expr[at:at + 20]!r} is not understood")
        at = found.end()
        if found.lastgroup != "space":
            yield found.lastgroup, found.group()


class Reader:
    def __init__(self, expr):
        self.tokens = list(tokens(expr)) + [("end", "")]
        self.at = 0
        self.series = []
        # Every label that the expression names, in matchers and lists.
        self.listed = []

    def next(self, wanted=None):
        kind, text = self.tokens[self.at]
        if wanted is not None and text != wanted:
            raise Odd(f"{wanted!r} is wanted where {text!r} stands")
        self.at += 1
        return kind, text

    def text(self):
        return self.tokens[self.at][1]

    def label_list(self):
        labels = []
        self.next("(")
        while self.text() != ")":
            labels.append(self.next()[1])
            if self.text() == ",":
                self.next()
        self.next(")")
        return labels

    def matchers(self, series):
        self.next("{")
        while self.text() != "}":
            label, sign, (kind, value) = self.next()[1], self.next()[1], self.next()
            if kind != "string":
                raise Odd(f"the matcher of {label} has no quoted value")
            series.matchers.append((label, sign, value[1:-1]))
            if self.text() == ",":
                self.next()
        self.next("}")

    def read(self):
        inside = []
        waiting = None
        while self.tokens[self.at][0] != "end":
            kind, text = self.next()
            if text == "(":
                inside.append(waiting)
                waiting = None
            elif text == ")":
                if not inside:
                    raise Odd("one ) too many")
                closed = inside.pop()
                if closed and closed.name in AGGREGATIONS and self.text() in ("by", "without"):
                    raise Odd(f"write {closed.name} {self.text()} (…) (…), with the labels in front")
            elif text == "{":
                raise Odd("a selector without a metric's name")
            elif kind == "name" and text in AGGREGATIONS:
                waiting = Call(text)
                if self.text() in ("by", "without"):
                    waiting.grouping = self.next()[1]
                    waiting.labels = self.label_list()
                    self.listed += waiting.labels
            elif kind == "name" and text in LABEL_LISTS:
                if self.text() != "(":
                    raise Odd(f"write {text} with its list, also an empty one")
                self.listed += self.label_list()
            elif kind == "name" and text.lower() not in WORDS:
                if self.text() == "(":
                    waiting = Call(text)
                else:
                    series = Series(text, [call for call in inside if call])
                    if self.text() == "{":
                        self.matchers(series)
                    self.series.append(series)
        if inside:
            raise Odd("a ) is missing")
        return self


def read(expr):
    """The reader of an expression after its work: `series` and `listed` labels."""
    return Reader(expr).read()


def counter(metric):
    return metric.endswith(("_total", "_bucket", "_sum", "_count"))


# Functions that want a counter, and those that want a value that goes up and down.
OF_COUNTERS = {"rate", "irate", "increase"}
OF_GAUGES = {"delta", "idelta", "deriv", "predict_linear"}


def faults(expr):
    """What is wrong with the use of counters and histograms in an expression."""
    try:
        found = read(expr)
    except Odd as odd:
        return [str(odd)]
    problems = []
    for series in found.series:
        calls = set(series.calls())
        if calls & OF_COUNTERS and not counter(series.metric):
            problems.append(f"{'/'.join(sorted(calls & OF_COUNTERS))} of {series.metric}, which is no counter")
        if counter(series.metric) and ":" not in series.metric and not calls & OF_COUNTERS:
            problems.append(f"{series.metric} is a counter without a rate or an increase around it")
        if calls & OF_GAUGES and counter(series.metric):
            problems.append(f"{'/'.join(sorted(calls & OF_GAUGES))} of {series.metric}, which is a counter")
        bucket = series.metric.endswith("_bucket")
        if "histogram_quantile" in calls and not bucket:
            problems.append(f"histogram_quantile of {series.metric}, which has no buckets")
        if bucket:
            for call in series.inside:
                kept = call.labels is not None and ("le" in call.labels) == (call.grouping == "by")
                if call.name in AGGREGATIONS and not kept and series.literal("le") is None:
                    problems.append(f"{call.name} over {series.metric} loses le")
    return problems
