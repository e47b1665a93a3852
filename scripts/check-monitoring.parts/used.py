"""Which metrics the dashboard, the rules and their tests name, and whether nodes have them."""

import board
import promql
import reading

# Made by Prometheus itself.
OF_PROMETHEUS = {"up"}
# Labels that Prometheus gives to everything it scrapes.
OF_TARGETS = {"job", "instance"}


def expressions(rules_path, dashboard_path):
    """Each as (where it stands, expression)."""
    for rule in reading.rules(rules_path):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel, query in board.queries(reading.dashboard(dashboard_path)):
        yield f"panel {panel['title']!r}", reading.without_variables(query["expr"])


def series_of_tests(tests_path):
    for group in reading.yaml(tests_path)["tests"]:
        for each in group["input_series"]:
            yield f"test {group['name']!r}", each["series"]


def compare(exposition, rules_path, tests_path, dashboard_path):
    """Problems, and figures."""
    recorded = {rule["record"] for rule in reading.rules(rules_path) if "record" in rule}
    problems, used, missing, empty = [], set(), set(), set()
    sources = [*expressions(rules_path, dashboard_path), *series_of_tests(tests_path)]
    for where, expr in sources:
        found = promql.read(expr)
        selected = [series for series in found.series if series.metric not in recorded]
        for series in selected:
            name = series.metric
            if name in OF_PROMETHEUS:
                continue
            used.add(name)
            if name not in exposition.names:
                missing.add(name)
                problems.append(f"{where}: no node has {name}")
                continue
            if name not in exposition.labels:
                empty.add(name)
                continue
            labels = exposition.labels[name]
            for label, sign, value in series.matchers:
                if label in OF_TARGETS:
                    continue
                if label not in labels:
                    problems.append(f"{where}: {name} has no label {label}")
                elif sign == "=" and label == "le" and value not in labels["le"]:
                    bounds = ", ".join(sorted(labels["le"], key=float))
                    problems.append(f"{where}: {name} has no bucket {value}, only {bounds}")
                # Versions, codes and the like may be others than in this traffic.
                elif sign == "=" and label in ENUMERATED and value not in labels[label]:
                    problems.append(f"{where}: {name} has no {label} {value}, only {', '.join(sorted(labels[label]))}")
        if not where.startswith("test"):
            known = OF_TARGETS.union(*(exposition.labels.get(series.metric, {}) for series in selected))
            if len(selected) == len(found.series) and all(series.metric in exposition.labels for series in selected):
                problems += [f"{where}: no series has the label {label}" for label in set(found.listed) - known]
    problems += [f"{name}: no node has a value of it after all that was asked" for name in sorted(empty)]
    unused = sorted(family(name) for name in exposition.labels if name.startswith("ringraft_"))
    unused = sorted(set(unused) - {family(name) for name in used})
    figures = (
        f"{len(used)} series of {len({family(name) for name in used})} metrics used, {len(missing)} missing,"
        f" {len(empty)} without a value; exposed and not used: {', '.join(unused) or 'none'}"
    )
    return problems, figures


# Labels whose values are few and all come up in the traffic of the check.
ENUMERATED = {"operation", "consistency", "path", "stage", "lane"}


def family(name):
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
