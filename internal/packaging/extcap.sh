#!/bin/sh
# Wireshark's extcap interface: lists the switch's ports and captures from them.
exec /usr/bin/uvswitch extcap run "$@"
