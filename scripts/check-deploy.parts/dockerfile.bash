# shellcheck shell=bash
# Reads the Dockerfile and .dockerignore for scripts/check-deploy, as far as these two use their languages: what is not
# known here is refused, so that nothing is passed over in silence.
#
# read_dockerfile sets `instructions` (one a line: NAME, a space, the rest; long lines joined, comments gone).

readonly DOCKERFILE=deploy/Dockerfile

read_dockerfile() {
  local line whole='' text=''
  while IFS= read -r line || [ -n "$line" ]; do
    # A comment between the lines of one instruction is no part of it.
    if [[ $line =~ ^[[:space:]]*(#|$) ]]; then continue; fi
    if [[ $line == *\\ ]]; then
      whole+="${line%\\} "
      continue
    fi
    whole+=$line
    text+="$whole"$'\n'
    whole=
  done <"$repo/$DOCKERFILE"
  [ -z "$whole" ] || fail "$DOCKERFILE ends within an instruction: $whole"
  mapfile -t instructions < <(printf '%s' "$text" | sed -E 's/^([A-Z]+)[[:space:]]+/\1 /')
  [ ${#instructions[@]} -gt 0 ] || fail "$DOCKERFILE has no instructions"
}

# ${NAME} and $NAME in $1 by the words NAME=value that follow. One that none of them has is an error.
substitute() {
  local text=$1 result='' name each found
  shift
  while [[ $text =~ ^([^$]*)\$(\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))(.*)$ ]]; do
    result+=${BASH_REMATCH[1]}
    name=${BASH_REMATCH[3]}${BASH_REMATCH[4]} text=${BASH_REMATCH[5]} found=
    for each in "$@"; do
      if [[ $each == "$name="* ]]; then found=yes result+=${each#*=}; fi
    done
    [ -n "$found" ] || fail "$DOCKERFILE uses \$$name, which nothing sets"
  done
  printf '%s\n' "$result$text"
}

# The words of an ENV or LABEL line, one a line, quotes undone.
words() { xargs -n 1 printf '%s\n' <<<"$1"; }

# The strings of an exec form, one a line. A shell form is refused: its process would be a shell that hears no signals.
exec_form() {
  [[ $1 =~ ^\[\ *(\"[^\"\\]*\"(,\ *\"[^\"\\]*\")*)\ *\]$ ]] || fail "$DOCKERFILE: not a list of plain strings: $1"
  grep -oE '"[^"]*"' <<<"${BASH_REMATCH[1]}" | sed -E 's/^"(.*)"$/\1/'
}

# Makes a copy of what a build would be sent: the files of the working tree that git does not ignore, less what
# .dockerignore takes out. The last pattern that matches a path, or a directory above it, decides.
copy_context() {
  local context=$1 path pattern keep count=0
  local -a patterns
  mapfile -t patterns < <(grep -vE '^[[:space:]]*(#|$)' "$repo/.dockerignore")
  for pattern in "${patterns[@]}"; do
    [[ $pattern =~ ^\!?[A-Za-z0-9._/-]*\*?$ && $pattern != *'**' ]] || fail ".dockerignore has a pattern that this check does not know: $pattern"
  done
  while IFS= read -r -d '' path; do
    keep=true
    for pattern in "${patterns[@]}"; do
      # Unquoted to match as a pattern. That `*` also matches a slash here makes no difference at the end of a pattern.
      # shellcheck disable=SC2053
      if [[ $path == ${pattern#!} || $path == ${pattern#!}/* ]]; then
        if [[ $pattern == !* ]]; then keep=true; else keep=false; fi
      fi
    done
    if $keep && [ -e "$repo/$path" ]; then
      mkdir -p "$context/$(dirname "$path")"
      # With its time, as an engine does.
      cp -P --preserve=mode,timestamps "$repo/$path" "$context/$path"
      count=$((count + 1))
    fi
  done < <(git -C "$repo" ls-files -z --cached --others --exclude-standard)
  say "  .dockerignore leaves $count files, $(du -s --apparent-size -B1 "$context" | cut -f 1) bytes, for the build"
}

# COPY from a directory into a root: the root, the working directory there, then the words of the instruction, sources
# below $1.
copy_into() {
  local from=$1 root=$2 workdir=$3 target source path
  shift 3
  [ $# -ge 2 ] || fail "$DOCKERFILE: COPY $*"
  target=${*: -1}
  if [[ $target != /* ]]; then target=$workdir/$target; fi
  if [ $# -gt 2 ]; then [[ $target == */ ]] || fail "$DOCKERFILE: COPY of several files to $target, which must end with a slash"; fi
  if [[ $target == */ ]]; then mkdir -p "$root$target"; fi
  mkdir -p "$(dirname "$root$target")"
  while [ $# -gt 1 ]; do
    source=$1
    shift
    path=$from/$source
    [ -e "$path" ] || fail "$DOCKERFILE copies $source, which is not there (.dockerignore?)"
    if [ -d "$path" ]; then
      # What is in it, not itself.
      mkdir -p "$root$target"
      cp -RP --preserve=mode,timestamps "$path/." "$root$target"
    else
      cp -P --preserve=mode,timestamps "$path" "$root$target"
    fi
  done
}
