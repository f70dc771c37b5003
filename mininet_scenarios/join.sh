#!/bin/sh
# join.sh CGROUP PID CMD...: run CMD on the host whose process 1 is PID: in its cgroup and in its namespaces.
# Ending this process ends CMD: PR_SET_PDEATHSIG inside, since nsenter has to fork into a PID namespace.
set -e
echo 0 >"$1/cgroup.procs"
pid=$2
shift 2
exec nsenter --target "$pid" --all -- setpriv --pdeathsig TERM "$@"
