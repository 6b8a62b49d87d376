package cli

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
	"github.com/uvswitch/uvswitch/internal/term"
	"github.com/uvswitch/uvswitch/internal/top"
)

// remove returns a command that deletes the object that its argument names.
func (a *app) remove(use, short, path string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return a.change(c, "DELETE", path+url.PathEscape(args[0]), nil)
	}}
}

func (a *app) portCommand() *cobra.Command {
	p := api.PortAdd{}
	add := &cobra.Command{
		Use: "add NAME (--netns NS | --device DEV | --qemu-stream PATH | --qemu-dgram PATH | --vde DIR)", Short: "Add a port",
		Long: "Add a port in one of three ways.\n" +
			"--netns: the switch creates a TAP in a network namespace, gives it a name and an address, brings it up, and sets a default\n" +
			"route via the gateway.\n" +
			"--device: the switch uses an existing device, such as the host end of a veth pair.\n" +
			"--qemu-stream, --qemu-dgram, --vde: the switch creates a socket for a virtual machine. The machine sets its own address; with\n" +
			"--ip the guard drops packets with any other source address.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p.Name = args[0]
			var made api.Port
			err := a.client().Do(c.Context(), "POST", "/ports", p, &made)
			if attach.ShouldAttachLocally(err, p.Netns) {
				if ran, err := a.inOwnersNamespace(p.Netns); ran {
					return err
				}
				made, err = attach.Port(c.Context(), a.client(), p)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(made)
			}
			_, err = fmt.Fprintln(a.out, term.Printable(strings.TrimSpace(fmt.Sprintf("port %s: %s %s %s", made.Name, made.Ifname, strings.Join(made.Addresses, " "), made.MAC))))
			return err
		},
	}
	f := add.Flags()
	f.StringVar(&p.Netns, "netns", "", "network namespace: a name, a path, or pid:N")
	f.StringVar(&p.Ifname, "ifname", "", "name of the device in the namespace (default eth0)")
	f.StringVar(&p.Device, "device", "", "plug in this existing device")
	f.StringVar(&p.QEMUStream, "qemu-stream", "", "for a virtual machine: path of the unix socket to which QEMU's -netdev stream connects")
	f.StringVar(&p.QEMUDgram, "qemu-dgram", "", "for a virtual machine: path of the unix socket to which QEMU's -netdev dgram sends")
	f.StringVar(&p.VDE, "vde", "", "for a virtual machine: folder to which vde_plug, QEMU's -netdev vde or VirtualBox connects")
	f.StringVar(&p.Network, "network", "", "name of the network (default: the network default)")
	f.StringVar(&p.IP6, "ip6", "", "an IPv6 address of the network, or auto (default: as for --ip, in a network with IPv6)")
	f.StringVar(&p.IP, "ip", "", "an address of the network, auto for a free one, or dhcp: the station asks the gateway (default: auto with --netns, none otherwise)")
	f.StringVar(&p.MAC, "mac", "", "MAC address (default: derived from the IP address)")
	f.IntVar(&p.MTU, "mtu", 0, "MTU: the longest IP packet, in bytes (default: the network's MTU)")
	f.StringVar(&p.Offload, "offload", "", "checksum and segmentation offload: on or off (default on)")
	f.StringVar(&p.Container, "container", "", "`ID` of the container or machine: it may answer by one of its ports what came in by another (default: ports in one namespace are of one container)")
	f.StringVar(&p.Tenant, "tenant", "", "`NAME` of the tenant: the ports of one tenant share the part of one port in flows, mappings and outside ports (default: the port is its own tenant)")
	f.StringVar((*string)(&p.Aliases), "aliases", "", "other names of the port in its network (DNS), separated by commas")
	f.StringVar((*string)(&p.Policies), "policy", "", "which flows may begin at the port and with it: names of policies, separated by commas; sandbox is built in (see uvswitch policy)")
	f.BoolVar(&p.NoRoute, "no-route", false, "set no default route in the namespace")
	set := &cobra.Command{Use: "set NAME SETTING on|off|RATE[/BURST]|N ...", Short: "Change the settings of a port",
		Long: "Change settings of a port. These are on or off, with the meaning that they have for `bridge link`:\n" +
			"learning (learn source MACs), flood, mcast_flood and bcast_flood (send it frames to unknown MACs, multicast, broadcast),\n" +
			"hairpin (frames may leave by the port they came from), isolated (no traffic with other isolated ports), locked (only MACs\n" +
			"of the forwarding database may send). guard, on or off: drop frames whose source MAC or IP address is not the port's own.\n" +
			"vlan, any or off: whether the guard lets frames with a VLAN tag pass.\n" +
			"servers, any or off: whether the station may act as a router or as a DHCP server (router advertisements, redirects, DHCP\n" +
			"answers); off for every port, guarded or not.\n" +
			"These are off or a rate: rate_from (limits what the switch receives from the port), rate_to (limits what it sends to the port),\n" +
			"rate (sets both).\n" +
			"A rate is in the units of tc, 1kbit to 1tbit; its burst is in bytes (b, kb, mb). Packets above the rate wait. When the\n" +
			"waiting packets need 50 ms to send, further packets are dropped with reason rx_rate_exceeded or tx_rate_exceeded.\n" +
			"These are off or a number of frames per second that the port may have flooded: storm_bcast (broadcasts, default 1000),\n" +
			"storm_ucast (frames to unknown MACs, default 1000), storm_mcast (multicasts, default 10000). Further ones are dropped with\n" +
			"reason storm_limited.",
		Args: cobra.MinimumNArgs(3), RunE: func(c *cobra.Command, args []string) error {
			if len(args)%2 == 0 {
				return usagef("each setting needs a value: on, off, a rate or a number")
			}
			settings := api.PortSet{}
			for i := 1; i < len(args); i += 2 {
				settings[args[i]] = api.Setting(args[i+1])
			}
			return a.change(c, "PATCH", "/ports/"+url.PathEscape(args[0]), settings)
		}}
	rename := &cobra.Command{Use: "rename NAME NEW", Short: "Give a port another name",
		Long: "Give a port another name. Its device, addresses, flows, counters and published ports stay as they are. Its name for\n" +
			"DNS is the new one. Rules of policies for port:NEW hold for it. Rules for port:NAME do not. A port of the configuration file is\n" +
			"renamed in the file.",
		Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
			return a.change(c, "POST", "/ports/"+url.PathEscape(args[0])+"/rename", api.PortRename{Name: args[1]})
		}}
	del := &cobra.Command{Use: "del NAME", Short: "Remove a port, its published ports, and its device if the switch created it", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		before, err := a.client().Published(c.Context())
		if err == nil {
			err = a.change(c, "DELETE", "/ports/"+url.PathEscape(args[0]), nil)
		}
		if err != nil {
			return err
		}
		after, err := a.client().Published(c.Context())
		for _, p := range before {
			stays := slices.ContainsFunc(after, func(x api.Publish) bool { return x.Host() == p.Host() }) // another port of the container has stood by
			if p.Port == args[0] && !stays && err == nil {
				fmt.Fprintf(a.err, "note: port %s of the host is not published any more\n", p.Host())
			}
		}
		return nil
	}}
	one := &cobra.Command{Use: "show NAME", Short: "Show one port", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return get(c.Context(), a, "/ports/"+url.PathEscape(args[0]), printPort)
	}}
	return group("port", "Ports: the devices and sockets that are plugged into the switch",
		show(a, "ls", "List ports", "/ports", a.portTable), one, add, set, rename, del)
}

func (a *app) portTable(w io.Writer, rows []api.Port) {
	head := []any{"NAME", "NETWORK", "KIND", "DEVICE", "NETNS", "MAC", "ADDRESS", "STATE", "FROM PORT", "TO PORT", "DROPPED"}
	if a.output == "wide" {
		head = append(head, "MTU", "OFFLOAD", "BACKEND", "BYTES FROM", "BYTES TO", "SETTINGS")
	}
	row(w, head...)
	for _, p := range rows {
		cells := []any{p.Name, p.Network, p.Kind, p.Ifname, p.Netns, p.MAC, strings.Join(p.Addresses, ","), p.State, p.RxPackets, p.TxPackets, p.RxDropped + p.TxDropped}
		if a.output == "wide" {
			cells = append(cells, p.MTU, p.Offload, p.Backend, p.RxBytes, p.TxBytes, strings.Join(on(p.Flags), ","))
		}
		row(w, cells...)
	}
}

// on returns the names of the settings that are on.
func on(flags map[string]bool) []string {
	return slices.DeleteFunc(byName(flags), func(k string) bool { return !flags[k] })
}

// rateText formats a rate in bits per second and a burst in bytes.
func rateText(bits, burst uint64) string {
	if bits == 0 {
		return "off"
	}
	return fmt.Sprintf("%s, burst %d bytes", top.Rate(float64(bits), "bit/s"), burst)
}

func printPort(w io.Writer, p api.Port) {
	row(w, "name", p.Name)
	row(w, "network", p.Network)
	row(w, "kind", p.Kind)
	row(w, "device", p.Ifname)
	row(w, "netns", p.Netns)
	if p.Tenant != "" {
		row(w, "tenant", p.Tenant)
	}
	if len(p.Policies) > 0 {
		row(w, "policies", strings.Join(p.Policies, ","))
	}
	if len(p.Aliases) > 0 {
		row(w, "aliases", strings.Join(p.Aliases, ","))
	}
	row(w, "mac", p.MAC)
	row(w, "addresses", strings.Join(p.Addresses, ","))
	if text := map[string]string{api.DHCPLeased: "leased by DHCP; see uvswitch lease ls", api.DHCPWaiting: "by DHCP, when its station asks"}[p.DHCP]; text != "" {
		row(w, "IPv4 address", text)
	}
	if p.Outside6 != "" {
		row(w, "outside", p.Outside6)
	}
	row(w, "mtu", p.MTU)
	row(w, "state", p.State)
	row(w, "offload", p.Offload)
	row(w, "settings", strings.Join(on(p.Flags), ","))
	if p.RxRate != 0 || p.TxRate != 0 {
		row(w, "rate from it", rateText(p.RxRate, p.RxBurst))
		row(w, "rate to it", rateText(p.TxRate, p.TxBurst))
	}
	var storms []string
	for _, name := range byName(p.Storm) {
		limit := "off"
		if n := p.Storm[name]; n != 0 {
			limit = fmt.Sprintf("%d/s", n)
		}
		storms = append(storms, name+" "+limit)
	}
	row(w, "may flood", strings.Join(storms, ", "))
	row(w, "received from it", fmt.Sprintf("%d packets, %d bytes, %d dropped", p.RxPackets, p.RxBytes, p.RxDropped))
	row(w, "sent to it", fmt.Sprintf("%d packets, %d bytes, %d dropped", p.TxPackets, p.TxBytes, p.TxDropped))
	if p.Pauses > 0 {
		row(w, "not read for a while", fmt.Sprintf("%d times: it flooded", p.Pauses))
	}
	if p.Unread > 0 {
		row(w, "not read", fmt.Sprintf("%d packets: they wait in its device, or were dropped there", p.Unread))
	}
	if !p.Offload {
		row(w, "segmented in software", p.Segmented)
	}
	for _, r := range top.ByCount(p.Drops) {
		row(w, "dropped", fmt.Sprintf("%d %s", p.Drops[r], r))
	}
}
