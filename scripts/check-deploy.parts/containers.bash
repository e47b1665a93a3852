# shellcheck shell=bash
# Runs the image for scripts/check-deploy as an engine runs it: its own name spaces, process id 1, a root that is
# read-only, no capabilities, the image's user, a volume of its own, other containers by name.
#
# new_container NAME HOST begins a description (c_… variables) with what the image says; save_container writes it;
# start_container runs it.

readonly NETWORK=172.30.0
# Longest until a container is healthy, in seconds: three take six on an idle machine.
readonly HEALTHY_SECONDS_MAX=300

links=0
declare -A container_process=()

# A bridge in a network of its own, with the host's end .1; names of containers are in one file of hosts.
make_network() {
  ip netns add bridge
  ip -n bridge link set lo up
  ip -n bridge link add bridge0 type bridge
  ip -n bridge addr add "$NETWORK.1/24" dev bridge0
  ip -n bridge link set bridge0 up
}

# A network name space $1 on the bridge, with the address $2.
join_network() {
  local name=$1 address=$2
  if grep -qE "^$name( |$)" <<<"$(ip netns list)"; then return; fi
  # A name of its own for each, because one that was removed goes a while later.
  links=$((links + 1))
  ip netns add "$name"
  ip link add "v$links" netns bridge type veth peer name eth0 netns "$name"
  ip -n bridge link set "v$links" master bridge0 up
  ip -n "$name" link set lo up
  ip -n "$name" addr add "$address/24" dev eth0
  ip -n "$name" link set eth0 up
}

new_container() {
  c_name=$1 c_number=$2
  c_environment=("${image_environment[@]}") c_arguments=("${image_command[@]}") c_hosts=()
  c_health=("${image_health[@]}") c_health_timeout=$image_health_timeout c_read_only=true c_hostname=$1 c_files=65536
  mkdir -p "$scratch/containers/$1"
  save_container "$1"
}

save_container() {
  local directory=$scratch/containers/$1
  # A new volume begins as the image's directory.
  [ -d "$directory/volume" ] || cp -a "${image_layers%%:*}$image_volume" "$directory/volume"
  declare -p c_name c_number c_environment c_arguments c_hosts c_health c_health_timeout c_read_only c_hostname c_files \
    image_layers image_user image_workdir image_volume image_entrypoint directory >"$directory/spec"
}

start_container() {
  local name=$1 directory=$scratch/containers/$1 process
  join_network "$name" "$NETWORK.$(sed -nE 's/^declare -- c_number="([0-9]+)"$/\1/p' "$directory/spec")"
  nsenter --net="/run/netns/$name" unshare --mount --pid --ipc --uts --fork --kill-child --propagation private \
    bash "$repo/scripts/check-deploy.parts/container-init" "$directory/spec" >>"$directory/log" 2>&1 &
  process=$!
  container_process[$name]=$process
}

container_log() { tail -n 20 "$scratch/containers/$1/log"; }

# The container's first process, as seen from here.
container_pid() { pgrep -P "${container_process[$1]}"; }

# A command in the container, as its user and with its variables.
in_container() {
  local name=$1 pid
  shift
  pid=$(container_pid "$name") || {
    echo "the container has ended: $(container_log "$name")"
    return 1
  }
  (
    # shellcheck source=/dev/null
    source "$scratch/containers/$name/spec"
    exec nsenter --target "$pid" --mount --pid --net --ipc --uts --root --wd -- \
      setpriv --reuid "${image_user%:*}" --regid "${image_user#*:}" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
      env -i "${c_environment[@]}" "$@"
  )
}

# Its health check once, within the time that it is given.
container_health() {
  local name=$1
  (
    # shellcheck source=/dev/null
    source "$scratch/containers/$name/spec"
    in_container "$name" timeout "$c_health_timeout" "${c_health[@]}"
  )
}

until_healthy() {
  local name=$1 began
  began=$(seconds)
  wait_until "$HEALTHY_SECONDS_MAX" container_health "$name" || fail "$name is not healthy after $(took "$began"): $waited_for; $(container_log "$name")"
  say "  $name is healthy after $(took "$began"): $waited_for"
}

# Its exit code, once it has ended.
wait_container() {
  local name=$1 limit=$2 deadline=$((SECONDS + $2)) code=0
  while kill -0 "${container_process[$name]}" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$name has not ended after $limit s: $(container_log "$name")"
    sleep 0.1
  done
  wait "${container_process[$name]}" || code=$?
  unset "container_process[$name]"
  return "$code"
}

# Stops it by a signal to its first process, as an engine does; it must end with 0 within the limit.
stop_container() {
  local name=$1 signal=$2 limit=$3 code=0
  kill -s "$signal" "$(container_pid "$name")"
  wait_container "$name" "$limit" || code=$?
  [ "$code" -eq 0 ] || fail "$name ended with exit code $code when it was stopped: $(container_log "$name")"
}

stop_all_containers() {
  local name
  for name in "${!container_process[@]}"; do
    kill -KILL "${container_process[$name]}" 2>/dev/null || true
    wait "${container_process[$name]}" 2>/dev/null || true
  done
}
