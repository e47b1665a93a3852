#!/usr/bin/env python3
"""The parts of scripts/check-monitoring that read and ask: `check.py WHAT ARGUMENT...`.

Each prints its figures, or on standard error what is wrong, and then exits with 1.
"""

import sys

import alerts
import board
import exposition
import reading
import traffic
import used


def end(problems, figures):
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    print(figures)
    sys.exit(1 if problems else 0)


def write(text):
    sys.stdout.write(text)


def load(files):
    found, problems = exposition.Exposition(), []
    for name in files:
        with open(name, encoding="utf-8") as file:
            node = exposition.Exposition()
            text = file.read()
            problems += [f"{name}: {problem}" for problem in node.add(text)]
            found.add(text)
    return found, problems


def check_alerts(rules, tests, guide):
    end(*alerts.lint(rules, tests, guide))


def check_board(dashboard):
    end(*board.lint(dashboard))


def board_rules(dashboard):
    write(board.as_rules(dashboard))


def spoilt_rules(rules, expr):
    write(alerts.spoilt(rules, expr))


def noticed(rules, output, which):
    """which: `silent` when the alerts always fire, so that tests which expect none must fail; else `firing`."""
    with open(output, encoding="utf-8") as file:
        left = alerts.unnoticed(rules, file.read(), which == "silent")
    wrong = "always fired" if which == "silent" else "never fired"
    total = sum(1 for rule in reading.rules(rules) if "alert" in rule)
    figures = f"{total - len(left)} of {total} alerts that {wrong} were noticed"
    end([f"{name} {wrong} and its tests passed" for name in left], figures)


def classic(file):
    with open(file, encoding="utf-8") as opened:
        write(exposition.classic(opened.read()))


def check_used(rules, tests, dashboard, *files):
    found, problems = load(files)
    more, figures = used.compare(found, rules, tests, dashboard)
    end(problems + more, f"{found.samples} samples of {len(found.labels)} series on {len(files)} nodes; {figures}")


def make_traffic(seconds, *nodes):
    statuses = traffic.make(nodes, float(seconds))
    wanted = {200, 204, 404, 400}
    problems = [f"no request was answered with {status}" for status in sorted(wanted - set(statuses))]
    end(problems, ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items())))


def fetch(node, path, seconds):
    """/metrics into path.all (with shards) and path.plain (without), both checked for what they are, once it is ready."""
    problems = traffic.until(float(seconds), lambda: traffic.not_ready(node))
    for name, url in (("plain", f"{node}/metrics"), ("all", f"{node}/metrics?shards=true")):
        status, kind, body = traffic.ask(url)
        text = body.decode("utf-8", "replace")
        if status != 200 or not kind.startswith("application/openmetrics-text"):
            problems.append(f"{url} answered {status} with the content type {kind!r}: {text[:200]}")
        if ("\nringraft_shard_" in text) != (name == "all"):
            problems.append(f"{url} has {'no ' if name == 'all' else ''}series of shards")
        with open(f"{path}.{name}", "w", encoding="utf-8") as file:
            file.write(text)
    end(problems, f"{node}: {len(text.splitlines())} lines with shards")


def targets_up(prometheus, nodes, seconds):
    wrong = traffic.until(float(seconds), lambda: traffic.targets_not_up(prometheus, int(nodes)))
    end(wrong, f"{nodes} targets scraped")


def panels_answered(prometheus, dashboard, seconds):
    result = []

    def ask():
        result[:] = traffic.empty_panels(prometheus, dashboard)
        return result[0]

    wrong = traffic.until(float(seconds), ask)
    end(wrong, f"{result[1]} queries answered with {result[2]} series, {len(wrong)} with none")


def rules_well(prometheus, seconds):
    wrong = traffic.until(float(seconds), lambda: traffic.unwell_rules(prometheus)[0])
    _, total, active = traffic.unwell_rules(prometheus)
    figures = f"{total} rules evaluated; pending or firing: {', '.join(active) or 'none'}"
    end(wrong if total else ["Prometheus has no rules"], figures)


WHAT = {
    "alerts": check_alerts,
    "board": check_board,
    "board-rules": board_rules,
    "spoilt-rules": spoilt_rules,
    "noticed": noticed,
    "classic": classic,
    "used": check_used,
    "traffic": make_traffic,
    "fetch": fetch,
    "targets-up": targets_up,
    "panels-answered": panels_answered,
    "rules-well": rules_well,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in WHAT:
        sys.exit(f"usage: check.py {'|'.join(WHAT)} ARGUMENT...")
    try:
        WHAT[sys.argv[1]](*sys.argv[2:])
    except (reading.Unreadable, ValueError, KeyError, OSError) as error:
        print(f"  {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
