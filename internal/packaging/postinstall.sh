#!/bin/sh
# The switch runs as this user; members of the group may read through the control socket. The package starts nothing; to start the
# switch: `systemctl enable --now uvswitch.socket uvswitch.service`.
set -e
getent group uvswitch >/dev/null 2>&1 || groupadd --system uvswitch 2>/dev/null || addgroup -S uvswitch 2>/dev/null || true
getent passwd uvswitch >/dev/null 2>&1 ||
	useradd --system --gid uvswitch --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin uvswitch 2>/dev/null ||
	adduser -S -D -H -G uvswitch uvswitch 2>/dev/null || true
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
