# shellcheck shell=bash
# Builds the image for scripts/check-deploy by replaying the Dockerfile, and runs it alone.
#
# make_image sets `image_layers` (directories, the uppermost first, joined by colons) and what the last stage says of a
# container: image_environment, image_user, image_workdir, image_volume, image_ports, image_stop_signal,
# image_entrypoint, image_command, image_health, and image_health_interval, _timeout, _start_period (seconds), _retries.

# Longest a RUN may take: with a build of RocksDB, on a machine that has other work.
readonly BUILD_SECONDS_MAX=5400

# The variables that every Debian image has, and those of the rust images.
readonly BASE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
readonly RUST_IMAGE_RUSTUP=/usr/local/rustup

# A stage's root from its base image, in $1; sets `environment`.
make_base_image() {
  local root=$1 image=$2 version toolchain rustup=${RUSTUP_HOME:-$HOME/.rustup} cargo=${CARGO_HOME:-$HOME/.cargo}
  overlay "$base" "$root"
  environment=("PATH=$BASE_PATH")
  case $image in
    debian:"$SUITE"-*-slim) ;;
    rust:*-slim-"$SUITE")
      version=${image#rust:}
      version=${version%%-*}
      # By its own name, because a link to another toolchain may lead out of the root; and without rustup, which would
      # want to look for a newer one.
      for toolchain in "$version" stable; do
        toolchain=$(readlink -f "$rustup/toolchains/$toolchain-$(uname -m)-unknown-linux-gnu" || true)
        [[ -z $toolchain || $("$toolchain/bin/rustc" --version 2>/dev/null) != "rustc $version "* ]] || break
        toolchain=
      done
      [ -n "$toolchain" ] || skip "the build stage needs Rust $version, the version of its image: rustup toolchain install $version"
      overlay "$rustup" "$root$RUST_IMAGE_RUSTUP" "$root.rustup"
      # With the crates that were downloaded already; more are downloaded into the overlay. Where they are on the machine,
      # and not where the image has them: cargo compiles again what moved.
      overlay "$cargo" "$root$cargo" "$root.cargo"
      environment=("PATH=$RUST_IMAGE_RUSTUP/toolchains/${toolchain##*/}/bin:$BASE_PATH" "CARGO_HOME=$cargo" "RUSTUP_HOME=$RUST_IMAGE_RUSTUP")
      ;;
    *) fail "$DOCKERFILE begins a stage with $image, which is neither Debian $SUITE slim nor Rust on it" ;;
  esac
}

# Shows the machine's target directory where this stage builds, so that RocksDB is not compiled again.
show_target_directory() {
  local root=$1 each target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ringraft/target}
  for each in "${environment[@]}"; do
    if [[ $each == CARGO_TARGET_DIR=* && -d $target ]]; then overlay "$target" "$root${each#*=}" "$root.target"; fi
  done
}

# One RUN, as root: an engine gives it to the shell.
run_instruction() {
  local root=$1 workdir=$2 log=$3 command=$4 began
  began=$(seconds)
  timeout "$BUILD_SECONDS_MAX" env -i "${environment[@]}" HOME=/root chroot "$root" env -C "$workdir" /bin/sh -c "$command" >"$log" 2>&1 || {
    tail -n 30 "$log"
    fail "RUN failed after $(took "$began"): $command"
  }
  say "  $(took "$began"): RUN ${command:0:100}"
  if grep -q 'Compiling librocksdb-sys' "$log"; then say "    RocksDB was compiled"; fi
}

make_image() {
  local scratch=$1 short=$2 began=$SECONDS
  local each name rest root='' image workdir=/ stage='' number=0 directory
  local -a arguments=() environment=() parts=() words_of
  local -A stage_roots=() stage_written=()
  read_dockerfile
  mkdir "$scratch/context"
  copy_context "$scratch/context"
  for each in "${instructions[@]}"; do
    name=${each%% *} rest=${each#* }
    number=$((number + 1))
    case $name in
      ARG)
        [ -z "$stage" ] || fail "$DOCKERFILE: ARG within a stage is not known to this check"
        [[ $rest == [A-Z]*=* ]] || fail "$DOCKERFILE: ARG $rest has no default"
        arguments+=("$rest")
        ;;
      FROM)
        image=$(substitute "${rest%% *}" "${arguments[@]}")
        stage=last
        if [[ $rest =~ \ AS\ ([a-z]+)$ ]]; then stage=${BASH_REMATCH[1]}; fi
        say "stage $stage, in place of $image"
        root=$scratch/stage-$stage workdir=/
        image_environment=() image_user='' image_volume='' image_ports='' image_stop_signal=SIGTERM image_entrypoint=() image_command=() image_health=()
        if $short && [ "$stage" != last ]; then continue; fi
        make_base_image "$root" "$image"
        stage_roots[$stage]=$root stage_written[$stage]=$root.written
        mount_kernel_files "$root"
        ;;
      # What the last stage says of its containers counts, and is the same in either mode.
      LABEL) words "$rest" >/dev/null ;;
      USER) image_user=$rest ;;
      VOLUME) image_volume=$rest ;;
      EXPOSE) image_ports=$rest ;;
      STOPSIGNAL) image_stop_signal=$rest ;;
      ENTRYPOINT) mapfile -t image_entrypoint < <(exec_form "$rest") ;;
      CMD) mapfile -t image_command < <(exec_form "$rest") ;;
      HEALTHCHECK) read_health "$rest" ;;
      RUN | COPY | ENV | WORKDIR)
        if $short && [ "$stage" != last ]; then continue; fi
        build_instruction "$name" "$rest"
        ;;
      *) fail "$DOCKERFILE: this check does not know $name" ;;
    esac
  done
  [ "$stage" = last ] || fail "$DOCKERFILE ends with the named stage $stage, which it cannot mean to ship"
  image_environment=("${environment[@]}") image_workdir=$workdir
  umount -R "$root/proc" "$root/dev"
  image_layers=${stage_written[last]}:$base
  image_facts "$root" "${stage_written[last]}"
  say "image: $((SECONDS - began)) s"
}

# An instruction that changes files or how later ones run, in the stage of make_image, whose variables it uses.
build_instruction() {
  local name=$1 rest=$2
  case $name in
    ENV)
      mapfile -t words_of < <(words "$rest")
      for each in "${words_of[@]}"; do
        [[ $each == [A-Z]*=* ]] || fail "$DOCKERFILE: ENV $each has no value"
        environment+=("$(substitute "$each" "${environment[@]}")")
        if [[ $each == CARGO_TARGET_DIR=* ]]; then show_target_directory "$root"; fi
      done
      ;;
    WORKDIR)
      [[ $rest == /* ]] || fail "$DOCKERFILE: WORKDIR $rest is not absolute"
      workdir=$rest
      mkdir -p "$root$workdir"
      ;;
    RUN)
      [ -z "$image_user" ] || fail "$DOCKERFILE: RUN after USER is not known to this check"
      [[ $rest != --* ]] || fail "$DOCKERFILE: RUN with options is not known to this check: $rest"
      run_instruction "$root" "$workdir" "$scratch/run-$number.log" "$rest"
      ;;
    COPY)
      read -r -a parts <<<"$rest"
      if [[ ${parts[0]} == --from=* ]]; then
        directory=${parts[0]#--from=} parts=("${parts[@]:1}")
        if $short; then
          # The program that is built already, stripped as the build stage does.
          mkdir -p "$scratch/built$(dirname "${parts[0]}")"
          strip --strip-debug -o "$scratch/built${parts[0]}" \
            "${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ringraft/target}/release/ringraft" ||
            skip "--short needs a built program: make build"
          copy_into "$scratch/built" "$root" "$workdir" "${parts[@]}"
        else
          [ -n "${stage_roots[$directory]:-}" ] || fail "$DOCKERFILE copies from $directory, which is no stage before"
          copy_into "${stage_roots[$directory]}" "$root" "$workdir" "${parts[@]}"
        fi
      else
        [[ ${parts[0]} != --* ]] || fail "$DOCKERFILE: COPY ${parts[0]} is not known to this check"
        # A pattern of names is expanded below the context.
        mapfile -t parts < <(cd "$scratch/context" && for each in "${parts[@]}"; do compgen -G "$each" || printf '%s\n' "$each"; done)
        copy_into "$scratch/context" "$root" "$workdir" "${parts[@]}"
      fi
      ;;
  esac
}

# Options of HEALTHCHECK, and its command.
read_health() {
  local rest=$1
  image_health_interval=30 image_health_timeout=30 image_health_start_period=0 image_health_retries=3
  while [[ $rest =~ ^--([a-z-]+)=([0-9]+)s?\ (.*)$ ]]; do
    case ${BASH_REMATCH[1]} in
      interval) image_health_interval=${BASH_REMATCH[2]} ;;
      timeout) image_health_timeout=${BASH_REMATCH[2]} ;;
      start-period) image_health_start_period=${BASH_REMATCH[2]} ;;
      retries) image_health_retries=${BASH_REMATCH[2]} ;;
      *) fail "$DOCKERFILE: HEALTHCHECK --${BASH_REMATCH[1]} is not known to this check" ;;
    esac
    rest=${BASH_REMATCH[3]}
  done
  [[ $rest == 'CMD '* ]] || fail "$DOCKERFILE: HEALTHCHECK $rest"
  mapfile -t image_health < <(exec_form "${rest#CMD }")
}

# What can be said of the image without running it: its root, and what it adds to its base.
image_facts() {
  local root=$1 written=$2 size program missing
  [[ $image_user =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || fail "the image's USER is '$image_user', not a number above 0 and a group's"
  [ "$(stat -c %u:%g "$written$image_volume")" = "$image_user" ] ||
    fail "$image_volume belongs to $(stat -c %u:%g "$written$image_volume"), not to USER $image_user"
  size=$(du -s --apparent-size -B1 "$written" | cut -f 1)
  program=$(stat -c %s "$written/usr/local/bin/ringraft")
  say "the image adds $size bytes to its base, $program of them the program; user $image_user"
  missing=$(in_root "$root" ldd /usr/local/bin/ringraft | grep 'not found' || true)
  [ -z "$missing" ] || fail "the program needs libraries that the image has not: $missing"
}

# The README's `docker run`: its -e values, and what follows the image.
read_docker_run() {
  local -a all
  local each
  mapfile -t all < <(sed -n '/^docker run /,/[^\\]$/p' "$repo/deploy/README.md" | sed 's/\\$//' | xargs -n 1 printf '%s\n')
  [ ${#all[@]} -gt 0 ] || fail "deploy/README.md has no docker run"
  run_environment=() run_arguments=()
  local option='' after=false
  for each in "${all[@]:2}"; do
    if $after; then
      run_arguments+=("$each")
    elif [ "$option" = -e ]; then
      run_environment+=("$each") option=
    elif [ -n "$option" ]; then
      option=
    elif [[ $each == -e || $each == -p || $each == -v || $each == --name || $each == --stop-timeout || $each == --ulimit || $each == --restart ]]; then
      option=$each
    elif [ "$each" = -d ]; then
      :
    elif [ "$each" = ringraft ]; then
      after=true
    else
      fail "deploy/README.md: docker run has $each, which this check does not know"
    fi
  done
  $after || fail "deploy/README.md: docker run names no image ringraft"
}

# The image alone: refused without what a person must say, then one node as the README runs it.
check_image() {
  local scratch=$1 code=0 began
  say "the image alone"
  new_container bare 10
  start_container bare
  wait_container bare 30 || code=$?
  [ "$code" -eq 2 ] || fail "without any settings the image ends with $code, not 2: $(container_log bare)"
  grep -q 'insecure = true' <<<"$(container_log bare)" || fail "without any settings it says: $(container_log bare)"
  say "  without settings it ends with exit code 2 and says what is missing"

  read_docker_run
  new_container single 10
  c_environment+=("${run_environment[@]}")
  c_arguments=("${run_arguments[@]}")
  save_container single
  start_container single
  until_healthy single
  wait_until 60 in_container single ringraft-ready readyz || fail "the README's docker run is not ready: $waited_for"
  in_container single ringraft put color blue >/dev/null || fail "put does not work in the container"
  began=$(seconds)
  stop_container single "${image_stop_signal#SIG}" 60
  say "  $image_stop_signal stopped it with exit code 0 after $(took "$began")"
  start_container single
  wait_until 60 in_container single ringraft-ready readyz || fail "not ready after a restart: $waited_for"
  [ "$(in_container single ringraft get color)" = blue ] || fail "the volume did not keep what was put"
  say "  started again on the same volume it still has what was put"
  stop_container single "${image_stop_signal#SIG}" 60
}
