# shellcheck shell=bash
# The clusters of deploy/compose.yaml for scripts/check-deploy: Compose itself reads the file, with parameters as a person
# gives them, and each service runs as a container (containers.bash) from what Compose made of it.

readonly COMPOSE_FILE=deploy/compose.yaml

# What `docker compose up` would run with these variables, as JSON in $resolved.
resolve() {
  resolved=$(compose "$@" -f "/root/$COMPOSE_FILE" config --format json 2>&1) || fail "Compose refuses $COMPOSE_FILE with $*: $resolved"
  ! grep -q 'level=warning' <<<"$resolved" || fail "Compose warns of $COMPOSE_FILE with $*: $resolved"
}

# A value of a service, empty when it has none.
of_service() { json --arg service "$1" "(.services[\$service] | $2) // empty" <<<"$resolved"; }

# Seconds of Compose's durations, such as 1m30s.
duration() {
  [[ $1 =~ ^(([0-9]+)m)?(([0-9]+)s)?$ && -n $1 ]] || fail "$COMPOSE_FILE: the duration $1 is not known to this check"
  printf '%s\n' $((${BASH_REMATCH[2]:-0} * 60 + ${BASH_REMATCH[4]:-0}))
}

# Keys of services that this check honours, or that only an engine can (build, image, logging, ports, restart, networks).
readonly SERVICE_KEYS='["build","cap_drop","command","entrypoint","environment","healthcheck","hostname","image","logging","networks","ports","profiles","read_only","restart","security_opt","stop_grace_period","ulimits","volumes"]'

# Describes one service as a container of the name $1 with the address .$3.
service_container() {
  local name=$1 service=$2 number=$3 unknown health volume
  unknown=$(json --arg service "$service" --argjson known "$SERVICE_KEYS" '.services[$service] | keys - $known | .[]' <<<"$resolved")
  [ -z "$unknown" ] || fail "$COMPOSE_FILE: this check does not know $unknown of $service"
  [ "$(of_service "$service" .build.dockerfile)" = "$DOCKERFILE" ] || fail "$COMPOSE_FILE builds $service from another file than $DOCKERFILE"
  [ "$(of_service "$service" '.command,.entrypoint')" = '' ] || fail "$COMPOSE_FILE: this check does not know a command of $service"
  new_container "$name" "$number"
  mapfile -t -O "${#c_environment[@]}" c_environment < <(of_service "$service" '.environment | to_entries[] | "\(.key)=\(.value)"')
  c_hosts=("${service_hosts[@]}")
  c_hostname=$(of_service "$service" .hostname)
  mapfile -t health < <(of_service "$service" '.healthcheck.test[]')
  [ "${health[0]:-}" = CMD ] || fail "$COMPOSE_FILE: the health check of $service is not a CMD"
  c_health=("${health[@]:1}")
  [[ " ${c_health[*]} " == *' readyz '* ]] || fail "$COMPOSE_FILE: the health check of $service does not ask for readyz: ${c_health[*]}"
  c_health_timeout=$(duration "$(of_service "$service" .healthcheck.timeout)")
  c_read_only=$(of_service "$service" .read_only)
  c_files=$(of_service "$service" '.ulimits.nofile | if type == "object" then .soft else . end')
  [ "$(of_service "$service" '.cap_drop[]')" = ALL ] || fail "$COMPOSE_FILE: $service keeps capabilities"
  [ "$(of_service "$service" .restart)" = unless-stopped ] || fail "$COMPOSE_FILE: $service is not started again when it ends"
  volume=$(of_service "$service" '.volumes[] | "\(.type) \(.source) \(.target)"')
  [[ $volume == "volume "*" $image_volume" ]] || fail "$COMPOSE_FILE: $service has no named volume at $image_volume, but: $volume"
  save_container "$name"
}

# Runs one cluster: its name, the nodes, replication factor and shards that it must have, then the variables.
check_cluster() {
  local cluster=$1 nodes=$2 factor=$3 shards=$4 began service number=10 grace got first last
  local -a services=() service_hosts=() ports volumes
  shift 4
  say "compose, $nodes nodes: ${*:-as it is}"
  resolve "$@"
  mapfile -t services < <(json '.services | keys[]' <<<"$resolved")
  [ ${#services[@]} -eq "$nodes" ] || fail "$COMPOSE_FILE with $* has the services ${services[*]}, not $nodes"
  mapfile -t ports < <(json '.services[].ports[] | "\(.host_ip):\(.published)"' <<<"$resolved")
  [ "$(printf '%s\n' "${ports[@]}" | sort -u | wc -l)" -eq "$nodes" ] || fail "$COMPOSE_FILE publishes the same port twice: ${ports[*]}"
  ! grep -qv '^127\.0\.0\.1:' <<<"$(printf '%s\n' "${ports[@]}")" || fail "$COMPOSE_FILE publishes beyond this machine unasked: ${ports[*]}"
  mapfile -t volumes < <(json '.services[].volumes[].source' <<<"$resolved" | sort -u)
  [ ${#volumes[@]} -eq "$nodes" ] || fail "$COMPOSE_FILE: services share a volume: ${volumes[*]}"
  for service in "${services[@]}"; do
    number=$((number + 1))
    service_hosts+=("$NETWORK.$number $service")
  done
  number=10
  began=$(seconds)
  for service in "${services[@]}"; do
    number=$((number + 1))
    service_container "$cluster-$service" "$service" "$number"
    start_container "$cluster-$service"
  done
  first=$cluster-${services[0]} last=$cluster-${services[-1]}
  for service in "${services[@]}"; do until_healthy "$cluster-$service" >/dev/null; done
  say "  all $nodes are ready after $(took "$began")"

  got=$(in_container "$first" ringraft -o json status)
  grep -q . <<<"$got"
  got=$(in_container "$first" ringraft -o json node list | json '.nodes | length')
  [ "$got" = "$nodes" ] || fail "the cluster has $got nodes, not $nodes"
  got=$(in_container "$first" ringraft -o json shard list | json '[.shards[] | select(.range != null)] | length')
  [ "$got" = "$shards" ] || fail "the cluster has $got data shards, not $shards"
  got=$(in_container "$first" ringraft -o json shard list | json '[.shards[].replicas | length] | unique | map(tostring) | join(",")')
  [ "$got" = "$factor" ] || fail "the shards have $got replicas, not $factor"
  in_container "$first" ringraft put color blue >/dev/null || fail "put at $first failed"
  [ "$(in_container "$last" ringraft get color)" = blue ] || fail "$last does not have what was put at $first"
  say "  $nodes nodes, $shards shards of $factor replicas; what was put at $first is read at $last"

  grace=$(duration "$(of_service "${services[-1]}" .stop_grace_period)")
  began=$(seconds)
  stop_container "$last" "${image_stop_signal#SIG}" "$grace"
  got=$(took "$began")
  [ "$(in_container "$first" ringraft get color)" = blue ] || fail "$first does not answer while $last is down"
  start_container "$last"
  until_healthy "$last" >/dev/null
  say "  $last stopped within $got of its $grace s, and was ready again on its volume"
  for service in "${services[@]}"; do
    stop_container "$cluster-$service" "${image_stop_signal#SIG}" "$grace"
    ip netns delete "$cluster-$service"
  done
}

# A node alone of three is alive and not ready, and says what it waits for.
check_one_of_three() {
  local -a service_hosts=()
  say "compose, one of three nodes"
  resolve
  service_container lonely n1 11
  start_container lonely
  wait_until 30 in_container lonely "${image_health[@]}" || fail "a node that waits for the others is not alive: $waited_for"
  if waited_for=$(container_health lonely); then fail "one node of three is ready: $waited_for"; fi
  grep -q 'n[23]:7501' <<<"$waited_for" || fail "a node that waits for others does not name one: $waited_for"
  say "  it is alive (the image's check) and not ready (compose.yaml's)"
  stop_container lonely "${image_stop_signal#SIG}" 60
  ip netns delete lonely
}

check_compose() {
  local code=0
  mkdir -p "$host/root/deploy"
  cp "$repo/$COMPOSE_FILE" "$host/root/deploy/"
  resolve
  check_one_of_three
  check_cluster three 3 3 12
  check_cluster five 5 5 4 COMPOSE_PROFILES=nodes-5 REPLICATION_FACTOR=5 SHARDS=4
  local -a service_hosts=()
  resolve REPLICATION_FACTOR=4
  service_container even n1 11
  start_container even
  wait_container even 30 || code=$?
  [ "$code" -eq 2 ] || fail "with REPLICATION_FACTOR=4 a node ends with $code, not 2: $(container_log even)"
  grep -q 'RINGRAFT_CLUSTER_REPLICATION_FACTOR' <<<"$(container_log even)" || fail "with REPLICATION_FACTOR=4 a node says: $(container_log even)"
  say "  REPLICATION_FACTOR=4 is refused by name, with exit code 2"
}
