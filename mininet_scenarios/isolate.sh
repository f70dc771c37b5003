#!/bin/sh
# isolate.sh CGROUP LEAF CMD...: run CMD in namespaces of its own, as their process 1, seeing CGROUP as the root of all cgroups.
# The process itself goes into CGROUP/LEAF: cgroup v2 wants processes in leaves only ("no internal processes", cgroups(7)).
# All of it ends when the caller's process, or any between, is killed.
set -e
cgroup=$1
leaf=$2
shift 2
mkdir -p "$cgroup/$leaf"
echo 0 >"$cgroup/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --cgroup sh -c 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup/$leaf" \
    unshare --pid --fork --kill-child --mount --propagation=private --net --uts --ipc -- "$@"
