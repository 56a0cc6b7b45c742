#!/usr/bin/env bash
# The first process of a node's namespaces: mounts and links, then it waits and reaps. Its end is the node's end.
#
#   unshare --mount --net --pid --fork --mount-proc --propagation private namespaces.sh FOLDER ADDRESS LINK
#
# Nothing outside FOLDER is written: what programs expect elsewhere is mounted over there, in this namespace only.
set -euo pipefail
folder=$1 address=$2 link=$3

mount -t tmpfs tmpfs /run
mkdir -p /run/netns "$folder"/{kubelet,log,sysctl}
# The kubelet's sockets for plugins have fixed paths below /var/lib/kubelet, which no machine needs to have.
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/kubelet
mount --bind "$folder/kubelet" /var/lib/kubelet
mount --bind "$folder/log" /var/log
printf '127.0.0.1 localhost\n%s node\n' "$address" > "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
# No resolver can be reached: look-ups of the node itself must fail at once.
printf 'nameserver 127.0.0.1\n' > "$folder/resolv.conf"
if resolver=$(readlink --canonicalize-existing /etc/resolv.conf); then
    mount --bind "$folder/resolv.conf" "$resolver"
fi
# Containers get mounts that others made later, as on any node.
mount --make-rshared /

# The kubelet sets these for the whole machine; here it finds the values it wants, in files over them.
pretend() {
    local file=$folder/sysctl/${1//\//_}
    echo "$2" > "$file"
    mount --bind "$file" "/proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

# An address on a pair of links whose other end is here too: not every kernel has `dummy` links. The route leads nowhere.
ip link set lo up
ip link add "$link" type veth peer name "$link-peer"
ip address add "$address/24" dev "$link"
ip link set "$link-peer" up
ip link set "$link" up
ip route add default via "${address%.*}.1" dev "$link"
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables 2> /dev/null || true

touch /run/namespaces-are-made
# Containers' shims leave their parents: bash reaps what becomes its child.
while :; do
    sleep 3600 &
    wait $!
done
