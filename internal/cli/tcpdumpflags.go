package cli

import (
	"github.com/spf13/pflag"
)

// Flags of tcpdump that change nothing here.
var idleTcpdumpFlags = []struct{ name, short, usage string }{
	{"line-buffered", "l", "write every line immediately (this is always so; accepted as in tcpdump)"},
	{"numeric", "n", "print numbers instead of names (this is always so; accepted as in tcpdump)"},
	{"packet-buffered", "U", "write every packet immediately (this is always so; accepted as in tcpdump)"},
	{"no-promiscuous-mode", "p", "no effect: a port has no promiscuous mode; accepted as in tcpdump"},
	{"immediate-mode", "", "no effect: packets are shown at once; accepted as in tcpdump"},
	{"dont-verify-checksums", "K", "no effect: checksums are not verified; accepted as in tcpdump"},
	{"no-optimize", "O", "no effect; accepted as in tcpdump"},
	{"no-domain", "N", "no effect: there are no names; accepted as in tcpdump"},
	{"numeric-foreign", "f", "no effect: there are no names; accepted as in tcpdump"},
	{"asdot", "b", "no effect: BGP is not decoded; accepted as in tcpdump"},
	{"undecoded-nfs", "u", "no effect: NFS is not decoded; accepted as in tcpdump"},
	{"micro", "", "no effect: microseconds are the default; accepted as in tcpdump"},
}

// Flags of tcpdump that need another way here.
var refusedTcpdumpFlags = []struct{ name, short, value, instead string }{
	{"read", "r", "FILE", "dump reads no files: the files of -w are for `tcpdump -r FILE`, tshark and Wireshark"},
	{"read-list", "V", "FILE", "dump reads no files: the files of -w are for `tcpdump -r`, tshark and Wireshark"},
	{"compile", "d", "", "the switch filters with the same program as tcpdump: see it with `tcpdump -y EN10MB -d EXPRESSION`"},
	{"monitor-mode", "I", "", "a port has no monitor mode; leave out -I"},
	{"dont-resolve-links", "L", "", "every port has the link type EN10MB (Ethernet)"},
	{"linktype", "y", "TYPE", "every port has the link type EN10MB (Ethernet); leave out -y"},
	{"list-time-stamp-types", "J", "", "there is one clock, that of the host; leave out -J"},
	{"postrotate-command", "z", "COMMAND", "dump runs no commands: compress or move a file of -C or -G when the next one is there"},
	{"relinquish-privileges", "Z", "USER", "the file belongs to who runs dump; write it by `uvswitch dump -w - | sudo -u USER tee FILE`"},
	{"esp-secret", "E", "SECRET", "dump does not decrypt: use `uvswitch dump -w - | tcpdump -r - -E SECRET`"},
	{"md5-secret", "M", "SECRET", "dump does not check MD5 signatures: use `uvswitch dump -w - | tcpdump -r - -M SECRET`"},
	{"mib", "m", "MODULE", "dump does not decode SNMP: use `uvswitch dump -w - | tcpdump -r - -m MODULE`"},
	{"packet-type", "T", "TYPE", "dump does not decode applications: use `uvswitch dump -w - | tcpdump -r - -T TYPE`"},
}

// addTcpdumpFlags adds the flags of tcpdump that have no field in dumpFlags.
func addTcpdumpFlags(fl *pflag.FlagSet) {
	for _, f := range idleTcpdumpFlags {
		fl.BoolP(f.name, f.short, false, f.usage)
	}
	fl.IntP("buffer-size", "B", 0, "no effect: the switch has a buffer of 4 MiB for each worker; accepted as in tcpdump")
	for _, f := range refusedTcpdumpFlags {
		if f.value == "" {
			fl.BoolP(f.name, f.short, false, f.instead)
		} else {
			fl.StringP(f.name, f.short, "", f.instead)
		}
		_ = fl.MarkHidden(f.name)
	}
}

// refuseTcpdumpFlags says what to use in place of a flag.
func refuseTcpdumpFlags(fl *pflag.FlagSet) error {
	for _, f := range refusedTcpdumpFlags {
		if fl.Changed(f.name) {
			return usagef("-%s: %s", f.short, f.instead)
		}
	}
	return nil
}
