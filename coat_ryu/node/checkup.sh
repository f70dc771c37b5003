# What a machine is and has, one fact a line: name, tab, value. `coat doctor` runs it, here or over SSH.
# POSIX sh and nothing else, for the machine may lack all that a node needs, Python too. Changes nothing.
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

say() { printf '%s\t%s\n' "$1" "$(printf %s "$2" | tr '\t\n' '  ')"; }
has() { command -v "$1" >/dev/null 2>&1; }
# The first version number in what a command prints.
version() { "$@" 2>&1 | sed -n 's/^[^0-9]*\([0-9][0-9.]*[0-9]\).*/\1/p' | head -n 1; }
# With a limit where there is one to be had (coreutils).
limited() { if has timeout; then timeout 30 "$@"; else "$@"; fi; }
# Whether a program runs in this network: a host may see the processes of containers, too.
runs() {
    here=$(readlink /proc/self/ns/net)
    for process in /proc/[0-9]*; do
        { read -r name <"$process/comm"; } 2>/dev/null || continue
        [ "$name" != "$1" ] || [ "$(readlink "$process/ns/net")" != "$here" ] || return 0
    done
    return 1
}
# Where systemd does not run, systemctl may call everything active.
active() { [ -d /run/systemd/system ] && systemctl --quiet is-active "$1" 2>/dev/null; }

[ ! -r /etc/os-release ] || . /etc/os-release
say os "${ID:-unknown} ${VERSION_ID:-}"
say os_name "${PRETTY_NAME:-unknown}"
say kernel "$(uname -r)"
say user "$(id -u)"
say clock "$(date +%s)"
[ ! -r /proc/self/status ] || say capabilities "$(sed -n 's/^CapEff:[^0-9a-f]*//p' /proc/self/status)"

for command in python3 podman runc criu iptables nft; do
    if has $command; then say $command "$(version $command --version)"; fi
done
if has podman; then
    say storage "$(limited podman info --format '{{.Store.GraphDriverName}}' 2>&1 | tail -n 1)"
fi
if has criu; then
    if checked=$(limited criu check 2>&1); then say criu_check ok; else say criu_check "$(echo "$checked" | tail -n 2)"; fi
fi
if has ovs-vsctl; then
    say ovs "$(version ovs-vsctl --version)"
    if limited ovs-appctl --timeout=5 -t ovs-vswitchd version >/dev/null 2>&1; then say ovs_runs yes; fi
fi
[ ! -d /sys/module/openvswitch ] || say ovs_module yes
if has sshd; then
    say sshd installed
    # Ubuntu's is started by the first connection.
    if runs sshd || active ssh.socket; then say sshd_runs yes; fi
fi

say cgroup "$(awk '$2 == "/sys/fs/cgroup" && $3 == "cgroup2" { v = "v2" } $3 ~ /^cgroup/ && !v { v = "v1" }
    END { print v }' /proc/mounts 2>/dev/null)"
[ ! -c /dev/net/tun ] || say tun yes
[ ! -e /proc/self/ns/net ] || say network_namespaces yes
[ ! -e /proc/sys/kernel/ns_last_pid ] || say checkpoint_restore yes
# The setting is there in every kernel that has the call.
[ ! -e /proc/sys/vm/unprivileged_userfaultfd ] || say userfaultfd yes
