#!/bin/sh
# Run systemd as the first process of its own namespaces, only with the units in folder $1/units; $2 is the name of its control
# group. It sees the machine's files and named network namespaces, but has its own /run, /var/lib,
# /dev/net, /etc/passwd and /etc/group.
set -e
if [ -z "$3" ]; then
	mount --make-rslave /
	if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
		group=/sys/fs/cgroup/$2
	else
		group=/sys/fs/cgroup/systemd/$2
		mount -t tmpfs tmpfs /sys/fs/cgroup
		mkdir /sys/fs/cgroup/systemd
		mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
	fi
	mkdir -p "$group"
	echo $$ >"$group/cgroup.procs"
	exec unshare -C -p -f -i -u --kill-child --mount-proc sh "$0" "$1" "$2" inside
fi
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
	umount /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
	umount /sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
mkdir -p "$1/netns"
mount --rbind /run/netns "$1/netns"
mount -t tmpfs tmpfs /run
mkdir /run/netns
mount --rbind "$1/netns" /run/netns
mount -t tmpfs tmpfs /var/lib
# udev's rule gives every user access to /dev/net/tun; this machine may have no udev.
mount -t tmpfs -o mode=0755 tmpfs /dev/net
mknod -m 0666 /dev/net/tun c 10 200
cp -r "$1/units" "$1/bin" /run/
echo 'uvswitch:x:64999:64999::/nonexistent:/usr/sbin/nologin' | cat /etc/passwd - >/run/passwd
echo 'uvswitch:x:64999:' | cat /etc/group - >/run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH=/run/units \
	/lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=0
