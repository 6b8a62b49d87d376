package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Policies: which flows may begin at a port, and with it",
		show(a, "ls", "List the policies", "/policies", policyTable), a.policyShow(), a.policyAdd(), a.policyDel(),
		a.policyAttach("attach", "Attach a policy to a port, or to all ports of a network"), a.policyAttach("detach", "Detach a policy from a port or a network"),
		a.policyTest(), a.policyLearn(),
		show(a, "refusals", "List the names for which ports have asked in vain", "/policy-refusals", func(w io.Writer, rows []api.PolicyRefusal) {
			row(w, "PORT", "NAME", "COUNT", "AGE")
			for _, r := range rows {
				row(w, r.Port, r.Name, r.Count, r.Age)
			}
		}))
}

func policyTable(w io.Writer, rows []api.Policy) {
	row(w, "POLICY", "RULES", "NAMES", "PORTS", "NETWORKS", "REFUSED")
	for _, p := range rows {
		refused := uint64(0)
		for _, r := range p.Rules {
			refused += r.Refused
		}
		for _, n := range p.Unallowed {
			refused += n
		}
		row(w, p.Name, len(p.Rules), p.DNS, strings.Join(p.Ports, ","), strings.Join(p.Networks, ","), refused)
	}
}

func (a *app) policyShow() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show the rules of a policy, and what they have done", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var all []api.Policy
		if err := a.client().Do(c.Context(), "GET", "/policies", nil, &all); err != nil {
			return err
		}
		for _, p := range all {
			if p.Name != args[0] {
				continue
			}
			if a.json {
				return a.printJSON(p)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			row(w, "policy", p.Name)
			row(w, "names", p.DNS)
			row(w, "ports", strings.Join(p.Ports, ","))
			row(w, "networks", strings.Join(p.Networks, ","))
			row(w)
			row(w, "RULE", "FLOWS", "REFUSED", "")
			for _, r := range p.Rules {
				text := r.Rule
				if r.Missing {
					text += "   (this port or network does not exist now)"
				}
				row(w, r.Number, r.Flows, r.Refused, text)
			}
			for _, port := range slices.Sorted(maps.Keys(p.Unallowed)) {
				row(w, "", "", p.Unallowed[port], "(port "+port+": no rule allows it)")
			}
			return w.Flush()
		}
		return fmt.Errorf("policy %q does not exist; `uvswitch policy ls` lists the policies", args[0])
	}}
}

func (a *app) policyAdd() *cobra.Command {
	var peer, proto, ports string
	var log bool
	c := &cobra.Command{Use: "add NAME egress|ingress allow|reject|drop [PEER] [PROTOCOL[/PORTS]] [log]", Short: "Add a rule to a policy, and make the policy",
		Long: "Add a rule to a policy. The policy is made if it does not exist.\n" +
			"egress: flows that begin at the port that has the policy. ingress: flows that begin elsewhere. Answers always pass.\n" +
			"PEER is who is at the other end: any, inside (the networks of the switch), outside (behind the uplink), host, an address, a\n" +
			"subnet, port:NAME, network:NAME, name:api.example.com or name:*.example.com. Without it: any.\n" +
			"PROTOCOL is tcp, udp, icmp, sctp, or a number; ports follow a slash: tcp/443, udp/53,5353, tcp/8000-8010.\n" +
			"The order of rules does not count: drop wins over reject, and reject over allow. A port with a rule for a direction passes nothing\n" +
			"there that no rule allows. ARP, the gateway's pings, its DHCP and its DNS always pass.\n" +
			"A rule acts on the next packet, also of flows that exist.",
		Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
			words := strings.Fields(strings.Join(args[1:], " ")) // the rule may be one word of the shell, too
			if len(words) < 2 {
				return usagef("a rule has a direction and an action at least, such as `uvswitch policy add %s egress allow 192.0.2.7 tcp/443`", args[0])
			}
			if len(words) > 2 && (peer != "" || proto != "") {
				return usagef("the words after %s say the peer and the protocol already; write these words, or --peer, --proto and --port", words[1])
			}
			if peer != "" {
				words = append(words, peer)
			}
			switch {
			case ports != "" && proto == "":
				return usagef("--port needs a protocol with ports: add --proto tcp or --proto udp")
			case ports != "":
				words = append(words, proto+"/"+ports)
			case proto != "":
				words = append(words, proto)
			}
			if log {
				words = append(words, "log")
			}
			var p api.Policy
			if err := a.client().Do(c.Context(), "POST", "/policies/"+url.PathEscape(args[0])+"/rules", api.PolicyRuleAdd{Rule: strings.Join(words, " ")}, &p); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(p)
			}
			r := p.Rules[len(p.Rules)-1]
			fmt.Fprintf(a.out, "rule %d of policy %s: %s\n", r.Number, p.Name, r.Rule)
			if r.Missing {
				fmt.Fprintln(c.ErrOrStderr(), "note: this port or network does not exist now; the rule concerns nobody until it does")
			}
			return nil
		}}
	f := c.Flags()
	f.StringVar(&peer, "peer", "", "who is at the other end, as PEER")
	f.StringVar(&proto, "proto", "", "protocol, as PROTOCOL")
	f.StringVar(&ports, "port", "", "ports of the responder: 443, or 8000-8010, separated by commas")
	f.BoolVar(&log, "log", false, "write what the rule refuses to the switch's log")
	return c
}

func (a *app) policyDel() *cobra.Command {
	return &cobra.Command{Use: "del NAME [RULE]", Short: "Remove a policy, or one of its rules by its number or its words", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		path := "/policies/" + url.PathEscape(args[0])
		switch {
		case len(args) == 2:
			path += "/rules/" + url.PathEscape(args[1])
		case len(args) > 2:
			number, err := a.ruleNumber(c.Context(), args[0], strings.Join(args[1:], " "))
			if err != nil {
				return err
			}
			path += "/rules/" + strconv.Itoa(number)
		}
		return a.change(c, "DELETE", path, nil)
	}}
}

// ruleNumber finds a rule of a policy by its words.
func (a *app) ruleNumber(ctx context.Context, name, text string) (int, error) {
	want, err := policy.Parse(text)
	if err != nil {
		return 0, err
	}
	var all []api.Policy
	if err := a.client().Do(ctx, "GET", "/policies", nil, &all); err != nil {
		return 0, err
	}
	for _, p := range all {
		for _, r := range p.Rules {
			if have, err := policy.Parse(r.Rule); p.Name == name && err == nil && have.String() == want.String() {
				return r.Number, nil
			}
		}
	}
	return 0, fmt.Errorf("policy %q has no rule %q; `uvswitch policy show %s` lists its rules", name, want, name)
}

func (a *app) policyAttach(what, short string) *cobra.Command {
	var to api.PolicyAttach
	c := &cobra.Command{Use: what + " NAME (--port PORT | --network NETWORK)", Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return a.change(c, "POST", "/policies/"+url.PathEscape(args[0])+"/"+what, to)
	}}
	c.Flags().StringVar(&to.Port, "port", "", "name of the port")
	c.Flags().StringVar(&to.Network, "network", "", "name of the network: all of its ports")
	return c
}

func (a *app) policyTest() *cobra.Command {
	return &cobra.Command{Use: "test PORT TO[:NUMBER][/PROTOCOL]", Short: "Say whether a port may begin a flow, and why",
		Long: "Say whether a port may begin a flow, and by which rule. Nothing is sent. The command ends with status 0 if the flow may begin, and with 1\n" +
			"if not. TO is an address, the name of another port, or a name of DNS. The protocol is tcp if there is a number, else icmp.\n" +
			"One argument with an arrow does, too: 'web -> api.example.com:443'.",
		Args: cobra.RangeArgs(1, 2), RunE: func(c *cobra.Command, args []string) error {
			q, err := parseTest(strings.Join(args, " -> "))
			if err != nil {
				return err
			}
			var out api.PolicyTestResult
			if err := a.client().Do(c.Context(), "POST", "/policy-test", q, &out); err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(out)
			} else {
				word := map[bool]string{true: "allowed", false: "refused"}[out.Allowed]
				fmt.Fprintf(a.out, "%s: %s\n", word, term.Printable(out.Why))
				if out.Remedy != "" {
					fmt.Fprintf(a.out, "  what to do: %s\n", term.Printable(out.Remedy))
				}
			}
			if err == nil && !out.Allowed {
				err = exitError{exitFailed} // everything has been said
			}
			return err
		}}
}

// parseTest reads "[port] NAME -> TO[:NUMBER][/PROTOCOL]".
func parseTest(text string) (q api.PolicyTest, err error) {
	from, to, ok := strings.Cut(text, "->")
	from = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(from), "port "))
	if to = strings.TrimSpace(to); !ok || from == "" || to == "" {
		return q, usagef("%q is not a flow; write it in quotes, as 'web -> api.example.com:443'", text)
	}
	q.Port = from
	to, q.Protocol, _ = strings.Cut(to, "/")
	q.To = to
	if i := strings.LastIndex(to, ":"); i >= 0 && (strings.Count(to, ":") == 1 || strings.HasSuffix(to[:i], "]")) {
		n, err := strconv.ParseUint(to[i+1:], 10, 16)
		if err != nil || n == 0 {
			return q, usagef("%q is not a port, 1 to 65535", to[i+1:])
		}
		q.To, q.Number = to[:i], int(n)
	}
	q.To = strings.Trim(q.To, "[]")
	if q.Protocol == "" {
		if q.Protocol = "icmp"; q.Number != 0 {
			q.Protocol = "tcp"
		}
	}
	return q, nil
}
