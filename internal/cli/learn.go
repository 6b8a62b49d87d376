package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
)

func (a *app) policyLearn() *cobra.Command {
	var during time.Duration
	var name string
	c := &cobra.Command{Use: "learn PORT", Short: "Watch what a port does, and propose the rules for that",
		Long: "Watch which flows begin at a port and with it, until Ctrl-C or for a time, and print a policy that allows these: as the part policies: of a\n" +
			"configuration file, to read and to change. Meanwhile the port has the policy learn, which allows everything. Nothing else is changed.\n" +
			"Let the program do everything that it must be able to do. A flow to an address whose name the port has asked for becomes a rule for the\n" +
			"name.",
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if c.Flags().Changed("for") && during <= 0 {
				return usagef("--for needs a time, such as 60s; without it, watching ends at Ctrl-C")
			}
			if during > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, during)
				defer cancel()
			}
			rules, err := a.learn(c.Context(), ctx, args[0])
			if err != nil {
				return err
			}
			if len(rules) == 0 {
				return fmt.Errorf("no flow began at port %s or with it; let its program work while `uvswitch policy learn` runs", args[0])
			}
			p := api.PolicyAdd{Name: cmp.Or(name, args[0]), Rules: rules}
			if a.json {
				return a.printJSON(p)
			}
			text, err := yaml.Marshal(config.File{Policies: []api.PolicyAdd{p}})
			if err == nil {
				_, err = a.out.Write(text)
			}
			return err
		}}
	c.Flags().DurationVar(&during, "for", 0, "end after this time, such as 60s (default: at Ctrl-C)")
	c.Flags().StringVar(&name, "name", "", "name of the policy (default: the port's)")
	return c
}

// contains reports whether a subnet, which may be empty, has an address.
func contains(subnet string, a netip.Addr) bool {
	p, err := netip.ParsePrefix(subnet)
	return err == nil && p.Contains(a)
}

// learnSeconds is for how long the port keeps the policy learn after this command has ended, or died.
const learnSeconds = 6

// learn watches a port until watching ends.
func (a *app) learn(ctx, watching context.Context, port string) (rules []string, err error) {
	sw := a.client()
	still := context.WithoutCancel(ctx) // Ctrl-C ends the watching, and not what follows
	watch := func() error {
		ctx, cancel := context.WithTimeout(still, 10*time.Second)
		defer cancel()
		return sw.Do(ctx, "POST", "/policies/"+model.Learn+"/attach", api.PolicyAttach{Port: port, Seconds: learnSeconds}, nil)
	}
	if err := watch(); err != nil {
		return nil, err
	}
	go func() {
		for again := time.Tick(learnSeconds * time.Second / 3); ; {
			select {
			case <-watching.Done():
				return
			case <-again:
				_ = watch() // if the switch is gone, the events end, too
			}
		}
	}()
	var state learned
	if err := errors.Join(sw.Do(still, "GET", "/ports", nil, &state.ports), sw.Do(still, "GET", "/networks", nil, &state.nets)); err != nil {
		return nil, err
	}
	fmt.Fprintf(a.err, "watching port %s; end with Ctrl-C\n", port)
	for e, err := range sw.FlowEvents(watching, nil) {
		if err != nil && watching.Err() == nil {
			return nil, err
		}
		if e.Event == "NEW" {
			state.flows = append(state.flows, e.Flow)
		}
	}
	if err := sw.Do(still, "GET", "/ports/"+url.PathEscape(port)+"/names", nil, &state.names); err != nil {
		return nil, err
	}
	rules = state.propose(port)
	if len(rules) > 0 && !slices.ContainsFunc(rules, func(r string) bool { return strings.HasPrefix(r, "egress") }) {
		fmt.Fprintf(a.err, "no flow began at port %s: without a rule for egress, the port may begin everything; add one, such as: egress reject any\n", port)
	}
	return rules, nil
}

// learned is what `policy learn` has seen.
type learned struct {
	ports []api.Port
	nets  []api.Network
	names []api.LearnedName // for which the port has asked
	flows []api.Flow        // that began
}

// propose returns the rules that allow a port what it has done, sorted.
func (l *learned) propose(port string) (rules []string) {
	byAddr, namesOf := map[netip.Addr]string{}, map[netip.Addr][]string{}
	for _, p := range l.ports {
		for _, text := range p.Addresses {
			if x, err := netip.ParsePrefix(text); err == nil {
				byAddr[x.Addr()] = p.Name
			}
		}
	}
	for _, n := range l.names {
		// The workload chooses the names that it asks for: a rule for one must mean this name, and no others.
		if _, bad := policy.Parse("egress allow name:" + n.Name); bad != nil || strings.HasPrefix(n.Name, "*") {
			continue
		}
		if x, err := netip.ParseAddr(n.Address); err == nil {
			namesOf[x] = append(namesOf[x], n.Name)
		}
	}
	// Several names may share an address. Which of them a flow meant cannot be seen: each gets a rule.
	peers := func(a netip.Addr) (list []string) {
		switch name := byAddr[a]; {
		case name == model.HostPortName:
			return []string{"host"}
		case name != "":
			return []string{"port:" + name}
		case len(namesOf[a]) > 0 && policy.IsPublic(a): // a name opens no other address
			for _, name := range namesOf[a] {
				list = append(list, "name:"+name)
			}
			return list
		}
		return []string{a.String()}
	}
	for _, f := range l.flows {
		src, _ := netip.ParseAddr(f.Original.Src)
		dst, _ := netip.ParseAddr(f.Reply.Src)
		what := f.Protocol
		switch {
		case f.Protocol == "icmp" || f.Protocol == "icmpv6":
			what = "icmp"
		case f.Reply.Sport != 0:
			what += "/" + strconv.Itoa(f.Reply.Sport)
		}
		direction, who := "ingress", []string{"outside"}
		switch port {
		case byAddr[src]:
			direction, who = "egress", peers(dst)
		case byAddr[dst]:
			if inside := slices.ContainsFunc(l.nets, func(n api.Network) bool { return contains(n.Subnet, src) || contains(n.Subnet6, src) }); inside {
				who = peers(src)
			}
		default:
			continue
		}
		for _, one := range who {
			if rule := direction + " allow " + one + " " + what; !slices.Contains(rules, rule) {
				rules = append(rules, rule)
			}
		}
	}
	slices.Sort(rules)
	return rules
}
