# shellcheck shell=bash
# The systemd unit for scripts/check-deploy: what systemd-analyze says of it, and the unit at work under a systemd that is
# the first process of name spaces of its own, as the first of three nodes with the configuration of deploy/systemd.

readonly UNIT=ringraft.service
# systemd-analyze security: 0 is no exposure, 10 is root without limits. Above it the check fails.
readonly EXPOSURE_MAX=1.5
# The address of the first node in the example configuration.
readonly EXAMPLE_NETWORK=10.0.0

install_as_readme() {
  local line
  local -a lines
  # The install lines of the README, run where its reader would run them.
  mapfile -t lines < <(sed -n '/^sudo install /s/^sudo //p' "$repo/deploy/README.md")
  [ ${#lines[@]} -ge 4 ] || fail "deploy/README.md has ${#lines[@]} lines of sudo install, not four or more"
  mkdir -p "$host/root/ringraft/target/release"
  cp -r "$repo/deploy" "$host/root/ringraft/"
  cp "${image_layers%%:*}/usr/local/bin/ringraft" "$host/root/ringraft/target/release/ringraft"
  for line in "${lines[@]}"; do
    in_root "$host" env -C /root/ringraft CARGO_TARGET_DIR=/root/ringraft/target bash -c "$line" || fail "the README's line failed: $line"
  done
  in_root "$host" systemd-sysusers >/dev/null 2>&1 || fail "systemd-sysusers refuses the user of the unit"
  in_root "$host" systemctl enable "$UNIT" >/dev/null 2>&1 || fail "the unit cannot be enabled"
}

analyze() {
  local said exposure
  said=$(in_root "$host" systemd-analyze verify "$UNIT" 2>&1) && [ -z "$said" ] || fail "systemd-analyze verify: $said"
  said=$(in_root "$host" systemd-analyze security --offline=yes --no-pager "$UNIT" 2>&1) || fail "systemd-analyze security: $said"
  exposure=$(sed -nE 's/^.*Overall exposure level for [^:]*: ([0-9.]+).*$/\1/p' <<<"$said")
  awk -v is="$exposure" -v most="$EXPOSURE_MAX" 'BEGIN { exit !(is != "" && is <= most) }' || fail "systemd-analyze security: exposure $exposure, above $EXPOSURE_MAX"
  say "  systemd-analyze verify says nothing; exposure $exposure of 10 (at most $EXPOSURE_MAX)"
}

# systemd as the first process of name spaces of its own, in the host's root.
start_systemd() {
  join_network systemd "$EXAMPLE_NETWORK.1"
  # Below the controllers' own hierarchy it needs one that it may write.
  mkdir "$CHECK_DEPLOY_CGROUP"
  (
    echo "$BASHPID" >"$CHECK_DEPLOY_CGROUP/cgroup.procs"
    exec nsenter --net=/run/netns/systemd unshare --mount --pid --ipc --uts --cgroup --fork --kill-child --propagation private \
      bash "$repo/scripts/check-deploy.parts/systemd-init" "$host"
  ) >"$scratch/systemd.log" 2>&1 &
  container_process[systemd]=$!
  wait_until 120 systemd_is_up || fail "systemd does not start: $waited_for; $(tail -n 5 "$scratch/systemd.log")"
}

systemd_is_up() {
  local state
  state=$(on_host systemctl is-system-running 2>&1) || true
  printf '%s\n' "$state"
  # degraded: a unit of a real machine failed that has nothing to do here, such as the loading of kernel modules.
  [ "$state" = running ] || [ "$state" = degraded ]
}

# A command on the host that systemd runs.
on_host() {
  local pid
  pid=$(container_pid systemd) || return 1
  nsenter --target "$pid" --all env -i PATH="$BASE_PATH" SYSTEMD_PAGER= "$@"
}

# The second and the third node: the example with its marked lines changed as it says, as plain processes.
start_example_node() {
  local number=$1 directory=$scratch/example-$1
  mkdir -p "$directory"
  sed -E -e "s/$EXAMPLE_NETWORK\.1:([0-9]+)\" # each its own/$EXAMPLE_NETWORK.$number:\1\"/" \
    -e 's/= true # not on the others/= false/' -e "s|^data_dir = .*|data_dir = \"$directory/data\"|" \
    "$repo/deploy/systemd/node.toml" >"$directory/node.toml"
  [ "$(diff "$repo/deploy/systemd/node.toml" "$directory/node.toml" | grep -c '^>')" -eq 4 ] ||
    fail "deploy/systemd/node.toml has not the three marked lines and data_dir"
  join_network "example-$number" "$EXAMPLE_NETWORK.$number"
  nsenter --net="/run/netns/example-$number" "${image_layers%%:*}/usr/local/bin/ringraft" serve --config "$directory/node.toml" \
    >"$directory/log" 2>&1 &
  container_process[example-$number]=$!
}

unit() { on_host systemctl show --value --property "$1" "$UNIT"; }
unit_is() {
  [ "$(unit "$1")" = "$2" ] && return
  unit "$1"
  return 1
}
unit_log() { on_host journalctl --no-pager --unit "$UNIT" --lines "${1:-10}"; }
ready() { on_host ringraft-ready readyz; }

check_service() {
  local began pid restarts files
  say "the systemd unit"
  install_as_readme
  analyze
  mkdir -p "$scratch/containers"
  start_example_node 2
  start_example_node 3
  began=$(seconds)
  start_systemd
  wait_until 180 ready || fail "the unit's node is not ready: $waited_for; $(unit_log)"
  say "  systemd, the unit and two more nodes are ready after $(took "$began")"
  [ "$(on_host stat -c %U:%a /var/lib/ringraft)" = ringraft:700 ] || fail "/var/lib/ringraft is $(on_host stat -c %U:%a /var/lib/ringraft)"
  pid=$(unit MainPID)
  [ "$(on_host stat -c %U "/proc/$pid")" = ringraft ] || fail "the node runs as $(on_host stat -c %U "/proc/$pid")"
  on_host grep -qE '^NoNewPrivs:\s1$' "/proc/$pid/status" || fail "the node could gain privileges"
  on_host grep -qE '^Seccomp:\s2$' "/proc/$pid/status" || fail "the node's system calls are not filtered"
  on_host grep -qE '^CapBnd:\s0+$' "/proc/$pid/status" || fail "the node has capabilities"
  files=$(unit LimitNOFILE)
  # systemd takes the highest limit there is where it may not raise it.
  if ! (ulimit -n "$files") 2>/dev/null; then files=$(ulimit -Hn); fi
  on_host grep -qE "^Max open files +$files " "/proc/$pid/limits" || fail "the node's limit of open files: $(on_host grep 'open files' "/proc/$pid/limits")"
  say "  it runs as ringraft, without capabilities, with filtered system calls and $files of $(unit LimitNOFILE) files"

  # The fsync and the flush under the filter of system calls.
  on_host ringraft put color blue >/dev/null || fail "put at the unit's node failed"
  began=$(seconds)
  on_host systemctl restart "$UNIT" || fail "the unit does not restart: $(unit_log)"
  wait_until 180 ready || fail "the unit's node is not ready after a restart: $waited_for"
  ! grep -qE 'stop-sigterm.* timed out|Failed with result' <<<"$(unit_log 100)" || fail "the stop was not in order: $(unit_log 20)"
  say "  stopped in order and ready again after $(took "$began")"

  restarts=$(unit NRestarts)
  # As a panic or a failed write of the log ends it.
  on_host systemctl kill --signal=ABRT "$UNIT"
  began=$(seconds)
  wait_until 30 unit_is NRestarts $((restarts + 1)) || fail "a crashed node is not started again: $waited_for"
  wait_until 180 ready || fail "not ready after a crash: $waited_for"
  awk -v from="$began" -v to="$(seconds)" 'BEGIN { exit !(to - from >= 9) }' || fail "a crashed node was started again after $(took "$began"), not ten seconds"
  say "  crashed, started again and ready after $(took "$began")"
  check_damage
  stop_systemd
}

# A log that a bit has changed in is refused at the start; the unit tries a few times, with pauses, and gives up.
check_damage() {
  local log pause interval burst
  on_host systemctl stop "$UNIT"
  log=$(find "$host/var/lib/ringraft/log" -name '*.log' -size +0 | sort | head -n 1)
  [ -n "$log" ] || log=$(find "$host/var/lib/ringraft/log" -name 'MANIFEST-*' | head -n 1)
  # In the middle, where no torn end is: changed for certain.
  printf '\377\000\377\000' | dd of="$log" bs=1 seek=$(($(stat -c %s "$log") / 2)) conv=notrunc status=none
  pause=$(unit RestartUSec)
  [ "$pause" = 10s ] || fail "the unit starts a node again after $pause, not ten seconds"
  interval=$(unit StartLimitIntervalUSec) burst=$(unit StartLimitBurst)
  # Otherwise the pauses alone would keep it below the limit, for ever.
  [[ $interval =~ ^([0-9]+)min$ && $((BASH_REMATCH[1] * 60)) -gt $((burst * 20)) ]] ||
    fail "the unit's limit of $burst starts in $interval is never met with pauses of $pause"
  # The pauses are what it is told above; only to get through this check, not as it is installed.
  on_host mkdir -p "/run/systemd/system/$UNIT.d"
  on_host sh -c "printf '[Service]\nRestartSec=200ms\n' >/run/systemd/system/$UNIT.d/short.conf; systemctl daemon-reload; systemctl reset-failed $UNIT"
  on_host systemctl start "$UNIT" || true
  wait_until 60 unit_is ActiveState failed || fail "a node with a damaged log does not stay failed: $waited_for; $(unit_log)"
  sleep 1
  unit_is ActiveState failed >/dev/null || fail "it was started again after the limit: $(unit_log)"
  grep -q 'the node stops' <<<"$(unit_log 100)" || fail "a damaged log was not refused: $(unit_log)"
  grep -q 'Start request repeated too quickly' <<<"$(unit_log 20)" || fail "it stays failed for another reason: $(unit_log 20)"
  say "  with a damaged log: $(unit NRestarts) restarts, $pause apart as installed, then failed for good: $(unit_log 100 | grep -o 'the node stops: .*' | tail -n 1 | cut -c 1-160)"

  # A setting that is refused is tried once.
  sed -i 's/^replication_factor = .*/replication_factor = 4/' "$host/etc/ringraft/node.toml"
  on_host systemctl reset-failed "$UNIT"
  on_host systemctl start "$UNIT" || true
  wait_until 30 unit_is ActiveState failed || fail "a node with a bad setting does not stay failed: $waited_for"
  [ "$(unit NRestarts)" = 0 ] || fail "a bad setting was tried again $(unit NRestarts) times"
  [ "$(unit ExecMainStatus)" = 2 ] || fail "a bad setting ended with $(unit ExecMainStatus), not 2"
  say "  with a bad setting: no restart, exit code 2"
}

stop_systemd() {
  local name
  for name in example-2 example-3; do kill -TERM "${container_process[$name]}"; done
  for name in example-2 example-3; do
    wait "${container_process[$name]}" || fail "$name ended with exit code $?"
    unset "container_process[$name]"
  done
  kill -KILL "${container_process[systemd]}"
  wait "${container_process[systemd]}" 2>/dev/null || true
  unset "container_process[systemd]"
}
