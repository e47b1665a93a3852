#!/bin/sh
# Stands in for a node where the tests of `ringraft dev` need a process alone: says its arguments, then stays until it is
# told to stop or its input ends. `exit-3` in the path of its configuration makes it fail at once. It starts no process
# of its own, which would have its command line for a moment.
echo "running $*"
case "$3" in
*exit-3*) exit 3 ;;
esac
trap 'echo "handing over"; exit 0' TERM
while read -r line; do :; done
echo "input ended"
