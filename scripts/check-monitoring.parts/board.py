"""Lint of the dashboard: what Grafana's own dashboard-linter asks for, and more."""

import json

import promql
import reading

# Panels without series have no unit.
WITHOUT_SERIES = {"row", "text"}
GRID_WIDTH = 24


def queries(board):
    """Each query as (panel, query)."""
    for panel in reading.panels(board):
        for query in panel.get("targets", []):
            yield panel, query


def overlapping(panels):
    """Pairs of panels that lie on each other."""
    cells = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in cells:
                    return f"{cells[x, y]!r} and {panel['title']!r} lie on each other"
                cells[x, y] = panel["title"]
        if place["x"] + place["w"] > GRID_WIDTH:
            return f"{panel['title']!r} is wider than the dashboard"
    return None


def lint_variables(board):
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    if set(variables) != {"datasource", "job", "instance"}:
        yield f"the variables are {', '.join(variables)}, not datasource, job and instance"
        return
    source = variables["datasource"]
    if source["type"] != "datasource" or source["query"] != "prometheus":
        yield "the variable datasource does not choose a Prometheus"
    for name in ("job", "instance"):
        variable = variables[name]
        if variable["datasource"].get("uid") != "${datasource}":
            yield f"the variable {name} asks a fixed data source"
        several = variable["multi"] and variable["includeAll"] and variable["allValue"] == ".+"
        if not several or variable["refresh"] != 2:
            yield f"the variable {name} is not: several values, all of them as .+, asked anew when the time changes"


def lint_query(panel, query):
    expr, title = query["expr"], panel["title"]
    for fault in promql.faults(reading.without_variables(expr)):
        yield f"{title!r}: {fault}"
    if "$" in reading.without_variables(expr):
        yield f"{title!r}: a variable that the dashboard does not have"
    if not query.get("legendFormat") and panel["type"] != "stat":
        yield f"{title!r}: a query without a legend"
    if query.get("datasource", {}).get("uid") != "${datasource}":
        yield f"{title!r}: a query with a fixed data source"
    try:
        found = promql.read(expr.replace("$__rate_interval", "5m"))
    except promql.Odd:
        return
    for series in found.series:
        for wanted in (("job", "=~", "$job"), ("instance", "=~", "$instance")):
            if wanted not in series.matchers:
                yield f'{title!r}: {series.metric} without {wanted[0]}=~"{wanted[2]}"'
        if set(series.calls()) & promql.OF_COUNTERS and "[$__rate_interval]" not in expr:
            yield f"{title!r}: a rate over something else than $__rate_interval"


def lint(path):
    """Problems of the dashboard, and figures."""
    board = reading.dashboard(path)
    problems = []
    everything = list(reading.panels(board))
    panels = [panel for panel in everything if panel["type"] not in WITHOUT_SERIES]
    ids = [panel["id"] for panel in everything]
    twice = sorted(each for each in set(ids) if ids.count(each) > 1)
    problems += [f"the panel id {each} is there {ids.count(each)} times" for each in twice]
    titles = [panel.get("title") for panel in panels]
    problems += [f"the title {each!r} is there twice" for each in set(titles) if titles.count(each) > 1]
    for panel in panels:
        name = repr(panel.get("title") or f"panel {panel['id']}")
        if not panel.get("title"):
            problems.append(f"{name} has no title")
        if not panel.get("description"):
            problems.append(f"{name} has no description")
        if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit"):
            problems.append(f"{name} has no unit")
        if panel.get("datasource", {}).get("uid") != "${datasource}":
            problems.append(f"{name} has a fixed data source")
        if not panel.get("targets"):
            problems.append(f"{name} asks nothing")
        letters = [query["refId"] for query in panel.get("targets", [])]
        if len(set(letters)) != len(letters):
            problems.append(f"{name} has two queries of one letter")
    for part in [board["panels"]] + [row["panels"] for row in board["panels"] if row["type"] == "row"]:
        if overlap := overlapping(part):
            problems.append(overlap)
    problems += lint_variables(board)
    for panel, query in queries(board):
        problems += lint_query(panel, query)
    if board.get("editable") is not False:
        problems.append("the dashboard can be edited in place, where an upgrade would lose that")
    if board.get("id") is not None or not board.get("uid"):
        problems.append("the dashboard has a number of one Grafana, or no uid")
    rows = sum(1 for panel in everything if panel["type"] == "row")
    return problems, f"{len(panels)} panels in {rows} rows, {sum(1 for _ in queries(board))} queries"


def as_rules(path):
    """The queries as recording rules, for promtool to parse."""
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for panel, query in queries(reading.dashboard(path)):
        # JSON strings are YAML strings.
        expr = json.dumps(reading.without_variables(query["expr"]))
        lines += [f"      - record: panel_{panel['id']}_{query['refId']}", f"        expr: {expr}"]
    return "\n".join(lines) + "\n"
