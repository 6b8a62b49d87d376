#!/bin/sh
# Wireshark's list of the switch's ports.
exec /usr/bin/uvswitch extcap run "$@"
