#!/bin/sh
# overlay.sh WORK LOWER SIZE SEED [SOURCE TARGET ro|rw]... -- CMD...: run CMD on the root file system LOWER, which stays as it is.
# What is written goes to a tmpfs on WORK, of SIZE bytes (tmpfs(5)'s form), which starts with the files of SEED and
# disappears with the mount namespace. Each directory SOURCE is seen at TARGET, which LOWER or SEED holds.
set -e
work=$1
lower=$2
size=$3
seed=$4
shift 4
mount -t tmpfs -o "mode=755,size=$size" tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root" "$work/containers"
cp -a "$seed/." "$work/upper"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
# Podman's storage is an overlay too, and an overlay's upper directory cannot lie in another overlay.
mount --bind "$work/containers" "$work/root/var/lib/containers"
while [ "$1" != -- ]; do
    mount --bind -o "$3" "$1" "$work/root$2"
    shift 3
done
shift
exec sh "$(dirname "$0")/enter.sh" "$work/root" "$@"
