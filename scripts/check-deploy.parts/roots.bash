# shellcheck shell=bash
# The Debians of scripts/check-deploy: one by debootstrap, which stands for the Dockerfile's base images, and over it one
# with systemd and docker-compose, which stands for the host. Sets `base` and `host`.

readonly SUITE=bookworm
# Debian's docker-compose of the next release is the first one that is today's Compose; `config` needs no engine, and the
# program no other library than the C library.
readonly COMPOSE_SUITE=trixie
# Both are kept as files for later runs, made anew when they are older than this.
readonly ROOTS_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ringraft/deploy-roots
readonly ROOTS_DAYS_MAX=7
readonly HOST_PACKAGES=(systemd systemd-sysv dbus jq iproute2 procps ca-certificates)

# debootstrap from this machine's packages, unpacked beside the root when it is not installed.
find_debootstrap() {
  local scratch=$1
  if command -v debootstrap >/dev/null; then return; fi
  mkdir "$scratch/tools"
  (cd "$scratch/tools" && { apt-get download -q debootstrap || { apt-get update -q && apt-get download -q debootstrap; }; }) \
    >"$scratch/tools/log" 2>&1 || skip "debootstrap is not installed and apt-get cannot download it: $(tail -n 1 "$scratch/tools/log")"
  dpkg -x "$scratch"/tools/debootstrap_*.deb "$scratch/tools"
  export DEBOOTSTRAP_DIR="$scratch/tools/usr/share/debootstrap"
  PATH="$PATH:$scratch/tools/usr/sbin"
}

# The first source of packages that apt is set up with, on Debian; elsewhere Debian's own.
mirror() {
  local found=
  if grep -qx 'ID=debian' /etc/os-release; then
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
      sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+).*$/\3/p' | grep -v security | head -n 1)
  fi
  printf '%s\n' "${found:-http://deb.debian.org/debian}"
}

# A directory $2 in which what is written goes to $3.written (else $2.written), over the directories of $1 (the uppermost
# first, separated by colons), which stay as they are.
overlay() {
  local layer=${3:-$2}
  mkdir -p "$2" "$layer.written" "$layer.work"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$layer.written,workdir=$layer.work" "$2" ||
    skip "needs overlay mounts, which $(stat -f -c %T "$layer.written") does not take"
}

# What programs in a root expect of the kernel.
mount_kernel_files() {
  mount -t proc proc "$1/proc"
  mount --rbind /dev "$1/dev"
}

# A command in a root, with nothing of this machine's environment.
in_root() {
  local root=$1
  shift
  env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" "$@"
}

# The root $1 from a file of an earlier run; false when there is none, or it is too old.
from_cache() {
  local root=$1 file
  file=$ROOTS_CACHE/${root##*/}.tar
  [ -n "$(find "$file" -mtime "-$ROOTS_DAYS_MAX" 2>/dev/null)" ] || return 1
  mkdir "$root"
  tar -C "$root" -xf "$file" --numeric-owner --xattrs --xattrs-include='*'
}

to_cache() {
  local root=$1 file
  file=$ROOTS_CACHE/${root##*/}.tar
  mkdir -p "$ROOTS_CACHE"
  # Whole or not at all, whoever else writes the same.
  tar -C "$root" -cf "$file.$$.part" --numeric-owner --xattrs --xattrs-include='*' --one-file-system . && mv "$file.$$.part" "$file"
}

make_roots() {
  local scratch=$1 from began how
  from=$(mirror)
  base=$scratch/base host=$scratch/host
  began=$(seconds) how="unpacked from $ROOTS_CACHE"
  if ! from_cache "$base"; then
    make_base "$scratch" "$from"
    how="from $from"
  fi
  say "a root with Debian $(cat "$base/etc/debian_version") $how in $(took "$began")"
  began=$(seconds) how="unpacked from $ROOTS_CACHE"
  if ! from_cache "$host"; then
    make_host "$scratch" "$from"
    how="from $from"
  fi
  # pivot_root wants a mount.
  mountpoint -q "$host" || mount --bind "$host" "$host"
  say "a host with $(in_root "$host" systemctl --version | head -n 1) and $(compose version) $how in $(took "$began")"
}

make_base() {
  local scratch=$1 from=$2
  find_debootstrap "$scratch"
  debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$base" "$from" >"$scratch/debootstrap.log" 2>&1 || {
    tail -n 5 "$scratch/debootstrap.log"
    skip "debootstrap cannot make a root from $from"
  }
  # It leaves these mounted; later roots have their own.
  umount "$base/proc" "$base/sys" 2>/dev/null || true
  # Written by the installer of every Debian, not by debootstrap.
  printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$base/etc/hosts"
  rm -f "$base"/var/cache/apt/archives/*.deb
  to_cache "$base"
}

make_host() {
  local scratch=$1 from=$2
  overlay "$base" "$host"
  mount_kernel_files "$host"
  {
    in_root "$host" apt-get update -q
    in_root "$host" apt-get install -q -y --no-install-recommends "${HOST_PACKAGES[@]}"
    printf 'deb %s %s main\n' "$from" "$COMPOSE_SUITE" >"$host/etc/apt/sources.list"
    in_root "$host" apt-get update -q
    in_root "$host" sh -c 'cd /root && apt-get download -q docker-compose && dpkg -x docker-compose_*.deb compose'
    in_root "$host" sh -c 'rm -rf /root/*.deb /var/cache/apt/archives/*.deb /var/lib/apt/lists/*'
  } >"$scratch/host.log" 2>&1 || {
    tail -n 5 "$scratch/host.log"
    skip "apt-get cannot install ${HOST_PACKAGES[*]} and docker-compose from $from"
  }
  # This machine's devices must not be seen by the systemd that runs there.
  umount -R "$host/dev" "$host/proc"
  to_cache "$host"
}

# Compose itself, in the host's root, with the variables of the call.
compose() {
  local -a variables=()
  while [[ ${1:-} == *=* ]]; do
    variables+=("$1")
    shift
  done
  in_root "$host" env ${variables[@]+"${variables[@]}"} /root/compose/usr/libexec/docker/cli-plugins/docker-compose "$@"
}

# jq of the host's root: the filter and options, the document on standard input.
json() { in_root "$host" jq -r "$@"; }
