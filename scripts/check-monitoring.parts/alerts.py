"""Lint of the alert rules and their tests, and rules that are wrong on purpose."""

import re

import promql
import reading

SEVERITIES = {"critical", "warning", "info"}


def anchors(path):
    with open(path, encoding="utf-8") as file:
        return re.findall(r'<a id="([^"]+)"></a>', file.read())


def lint(rules_path, tests_path, guide_path):
    """Problems of the rules, and figures."""
    problems = []
    rules = reading.rules(rules_path)
    alerts = [rule for rule in rules if "alert" in rule]
    names = [rule["alert"] for rule in alerts]
    guide = anchors(guide_path)
    for name in {name for name in names if names.count(name) > 1}:
        problems.append(f"{name} is there twice")
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        problems += [f"{name}: {fault}" for fault in promql.faults(rule["expr"])]
    for rule in alerts:
        name, notes = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            problems.append(f"{name} has no severity of {', '.join(sorted(SEVERITIES))}")
        for note in ("summary", "description", "runbook_url"):
            if not notes.get(note):
                problems.append(f"{name} has no {note}")
        if notes.get("runbook_url") != f"MONITORING.md#{name.lower()}":
            problems.append(f"{name}: its runbook_url is not MONITORING.md#{name.lower()}")
        if name.lower() not in guide:
            problems.append(f"{name} is not in MONITORING.md")
    for anchor in guide:
        if anchor not in [name.lower() for name in names]:
            problems.append(f"MONITORING.md has {anchor}, which is no alert")

    firing, silent = {}, {}
    for group in reading.yaml(tests_path)["tests"]:
        for test in group["alert_rule_test"]:
            kind = firing if test["exp_alerts"] else silent
            kind[test["alertname"]] = kind.get(test["alertname"], 0) + 1
    for name in names:
        if name not in firing:
            problems.append(f"{name}: no test in which it fires")
        if name not in silent:
            problems.append(f"{name}: no test in which it does not fire")
    for name in (firing.keys() | silent.keys()) - set(names):
        problems.append(f"a test names {name}, which is no alert")
    figures = (
        f"{len(alerts)} alerts, {len(rules) - len(alerts)} recorded ratios,"
        f" {sum(firing.values())} tests in which an alert fires, {sum(silent.values())} in which it does not"
    )
    return problems, figures


def spoilt(rules_path, expr):
    """The alerts as a rule file in which each has this expression, so that all always fire or none ever does."""
    lines = ["groups:", "  - name: spoilt", "    rules:"]
    for rule in reading.rules(rules_path):
        if "alert" in rule:
            lines += [f"      - alert: {rule['alert']}", f"        expr: {expr}"]
            if "for" in rule:
                lines.append(f"        for: {rule['for']}")
    return "\n".join(lines) + "\n"


def unnoticed(rules_path, output, silent_test_failed):
    """The alerts that do not stand in promtool's failures: those of tests that expected none, or one."""
    noticed = set()
    for name, expected in re.findall(r"alertname: (\w+), time: [^\n]*\n\s*exp:\[(\])?", output):
        if bool(expected) == silent_test_failed:
            noticed.add(name)
    return [rule["alert"] for rule in reading.rules(rules_path) if rule.get("alert", "") not in noticed | {""}]
