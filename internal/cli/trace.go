package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcapgo"
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) traceCommand() *cobra.Command {
	q := api.TraceRequest{}
	var file string
	var number int
	c := &cobra.Command{
		Use:   "trace --in PORT ('tcp SRC:PORT > DST:PORT S' | --hex BYTES | --pcap FILE [--frame N])",
		Short: "Explain what would happen to a packet, and why",
		Long: "Run a packet through the stages that real packets go through, with the current tables. Print what each stage decides, and\n" +
			"by which table entry. Nothing is sent, changed or counted.\n\n" +
			"Write the packet in words: tcp|udp|sctp|icmp|gre|esp|arp|nd [SRC[:PORT]] > DST[:PORT] [S|S.|.|P.|F.|R] [seq N] [ack N] [win N]\n" +
			"[ttl N] [len N] [mss N] [id N] [df]. S to R are TCP flags as tcpdump prints them (S. is SYN,ACK); without any: S.\n" +
			"Or ask the gateway: dhcp for an address, dns NAME (dns6 NAME) for the addresses of a name.\n" +
			"An IPv6 address is in brackets before a port: 'tcp > [2001:db8::1]:80'.\n" +
			"The default source is the port's own address, and port 40000. For a packet from outside, use --in uplink.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Packet = args[0]
			}
			given := 0
			for _, s := range []string{q.Packet, q.Hex, file} {
				if s != "" {
					given++
				}
			}
			switch {
			case q.In == "":
				return usagef("--in PORT is missing: name the port from which the packet comes; `uvswitch port ls` lists the ports")
			case given != 1:
				return usagef("exactly one packet is needed, not %d: write it in words (in quotes, because the shell interprets >), with --hex, or with --pcap FILE", given)
			case c.Flags().Changed("frame") && file == "":
				return usagef("--frame selects a frame of a file; add --pcap FILE")
			}
			if file != "" {
				b, err := frameOf(file, number)
				if err != nil {
					return err
				}
				q.Hex = hex.EncodeToString(b)
			}
			var t api.Trace
			if err := a.client().Do(c.Context(), "POST", "/trace", q, &t); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(t)
			}
			a.printTrace(&t)
			if t.Reverse != nil {
				fmt.Fprintln(a.out, "\nthe answer:")
				a.printTrace(t.Reverse)
			}
			return nil
		},
	}
	c.Flags().StringVar(&q.In, "in", "", "name of the port from which the packet comes")
	c.Flags().StringVar(&q.Hex, "hex", "", "the frame in hexadecimal, starting with the destination MAC address")
	c.Flags().StringVar(&file, "pcap", "", "read the frame from this pcap or pcapng file")
	c.Flags().IntVar(&number, "frame", 1, "number of the frame in the file, starting with 1")
	c.Flags().BoolVar(&q.Reverse, "reverse", false, "also trace the answer")
	return c
}

func (a *app) printTrace(t *api.Trace) {
	out := a.wrapped()
	fmt.Fprintf(out, "%s, %d bytes, in by port %s\n", term.Printable(t.Packet), t.Length, t.In)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, s := range t.Steps {
		fmt.Fprintf(w, "%3d  %s\t%s\t%s\n", i+1, s.Stage, s.Result, term.Printable(s.Text))
	}
	w.Flush()
	reason := ""
	if t.Reason != "" {
		reason = " (" + t.Reason + ")"
	}
	style := term.Good
	if t.Verdict == "dropped" {
		style = term.Bad
	}
	fmt.Fprintf(out, "  => %s: %s\n", a.styled(style, t.Verdict+reason), term.Printable(t.Why))
	if t.Remedy != "" {
		fmt.Fprintf(out, "     what to do: %s\n", term.Printable(t.Remedy))
	}
}

// frameOf reads the n-th frame of a capture file; the first is 1.
func frameOf(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := capture.CheckFile(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var src gopacket.PacketDataSource
	if ng, nerr := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions); nerr == nil {
		src = ng
	} else {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		old, oerr := pcapgo.NewReader(f)
		if oerr != nil {
			return nil, fmt.Errorf("%s is neither pcapng (%v) nor pcap (%v)", path, nerr, oerr)
		}
		old.SetSnaplen(min(old.Snaplen(), capture.MaxCaptured))
		src = old
	}
	for i := 1; ; i++ {
		b, _, err := src.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has only %d frames, so there is no frame %d", path, i-1, n)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, frame %d: %w", path, i, err)
		}
		if i == n {
			return b, nil
		}
	}
}
