"""Some of everything that clients do, and what Prometheus makes of it. Only for clusters started by the check."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

import board
import reading

ANSWER_SECONDS_MAX = 10
# Each node is asked for everything at least so often, however slow the machine is.
ROUNDS_MIN = 3


def ask(url, method="GET", body=None):
    """Status, content type and body; a status of 0 is no answer."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Content-Type", ""), error.read()
    except OSError:
        return 0, "", b""


def make(nodes, seconds):
    """Requests of all kinds to all nodes; returns how many had each status."""
    statuses = {}
    until = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < until or turn < ROUNDS_MIN * len(nodes):
        node = nodes[turn % len(nodes)]
        key = f"{node}/v1/kv/check/{turn % 200}"
        value = b"The quick brown fox jumps over the lazy dog. " * (1 + turn % 40)
        calls = [(key, "PUT", value)]
        calls += [(f"{key}?consistency={each}", "GET", None) for each in ("linearizable", "lease", "stale")]
        calls += [(f"{node}/v1/kv/nothing/{turn}", "GET", None), (f"{node}/v1/kv?prefix=check/1&limit=5", "GET", None)]
        # Too short for some: 504.
        calls.append((f"{key}?timeout=1ms", "PUT", value))
        if turn // len(nodes) % 3 == 0:
            calls += [(key, "DELETE", None), (f"{node}/readyz", "GET", None)]
            calls += [(f"{key}?consistency=perhaps", "GET", None)]
            calls += [(f"{node}/v1/kv?prefix=check&consistency={each}", "GET", None) for each in ("lease", "stale")]
        for url, method, body in calls:
            status = ask(url, method, body)[0]
            statuses[status] = statuses.get(status, 0) + 1
        turn += 1
    return statuses


def until(seconds, condition):
    """Waits for a condition, a function that gives nothing when all is well or else says what is not."""
    deadline = time.monotonic() + seconds
    while (wrong := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return wrong


def not_ready(node):
    status, _, body = ask(f"{node}/readyz")
    return [] if status == 200 else [f"{node} is not ready: {status} {body[:200]!r}"]


def api(prometheus, path, **parameters):
    answer = ask(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")[2]
    try:
        return json.loads(answer)
    except ValueError:
        return {"status": f"no answer: {answer[:200]!r}", "data": {}}


def targets_not_up(prometheus, nodes):
    targets = api(prometheus, "targets")["data"].get("activeTargets", [])
    away = [target for target in targets if target["health"] != "up"]
    wrong = [f"{target['scrapeUrl']}: {target['health']} {target['lastError']}" for target in away]
    if len(targets) != nodes:
        wrong.append(f"{len(targets)} targets instead of {nodes}")
    return wrong


def empty_panels(prometheus, dashboard_path):
    """The queries of the dashboard that Prometheus answers with nothing; how many there are; series they gave."""
    wrong, queries, series = [], 0, 0
    for panel, query in board.queries(reading.dashboard(dashboard_path)):
        expr = reading.without_variables(query["expr"], rate_interval="30s")
        answer = api(prometheus, "query", query=expr)
        queries += 1
        if answer["status"] != "success":
            wrong.append(f"panel {panel['title']!r}: {answer.get('error', answer['status'])}")
        elif not answer["data"]["result"]:
            wrong.append(f"panel {panel['title']!r}: nothing for {expr}")
        else:
            series += len(answer["data"]["result"])
    return wrong, queries, series


def unwell_rules(prometheus):
    """Rules that Prometheus cannot evaluate, how many there are, and the alerts that are pending or firing."""
    groups = api(prometheus, "rules")["data"].get("groups", [])
    rules = [rule for group in groups for rule in group["rules"]]
    unwell = [rule for rule in rules if rule["health"] != "ok"]
    active = [rule for rule in rules if rule.get("state", "inactive") != "inactive"]
    return (
        [f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in unwell],
        len(rules),
        [f"{rule['name']} {rule['state']}" for rule in active],
    )
