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
)

func (a *app) traceCommand() *cobra.Command {
	q := api.TraceRequest{}
	var file string
	var number int
	c := &cobra.Command{
		Use:   "trace --in PORT ('tcp SRC:PORT > DST:PORT S' | --hex BYTES | --pcap FILE [--frame N])",
		Short: "Explain what would happen to a packet, and why",
		Long: "Run a packet through the stages that real ones go through, with the tables as they are now, and print what each\n" +
			"decides and by which entry. Nothing is sent, nothing is changed and nothing is counted.\n\n" +
			"The packet is said in words: tcp|udp|sctp|icmp|gre|esp|arp [SRC[:PORT]] > DST[:PORT] [S|S.|.|P.|F.|R] [seq N] [ack N] [win N]\n" +
			"[ttl N] [len N] [mss N] [id N] [df].\n" +
			"Without SRC it comes from the port's own address, without its port from 40000. From outside, say --in uplink.",
		Example: "  uvswitch trace --in web 'tcp > 1.1.1.1:443 S' --reverse\n" +
			"  uvswitch trace --in uplink 'tcp 203.0.113.8:4000 > 198.51.100.1:8080 S'\n" +
			"  uvswitch trace --in db --pcap db.pcapng --frame 3",
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
				return usagef("say --in PORT: by which port it comes in; `uvswitch port ls` lists them")
			case given != 1:
				return usagef("say one packet, and not %d: in words (in quotes, since > is the shell's), by --hex, or by --pcap FILE", given)
			case c.Flags().Changed("frame") && file == "":
				return usagef("--frame says which frame of --pcap FILE")
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
			printTrace(a.out, &t)
			if t.Reverse != nil {
				fmt.Fprintln(a.out, "\nand back:")
				printTrace(a.out, t.Reverse)
			}
			return nil
		},
	}
	c.Flags().StringVar(&q.In, "in", "", "the port that it comes in by")
	c.Flags().StringVar(&q.Hex, "hex", "", "the frame in hexadecimal, from the destination MAC on")
	c.Flags().StringVar(&file, "pcap", "", "take the frame from this file, pcap or pcapng")
	c.Flags().IntVar(&number, "frame", 1, "which frame of the file, from 1")
	c.Flags().BoolVar(&q.Reverse, "reverse", false, "trace the answer too")
	return c
}

func printTrace(out io.Writer, t *api.Trace) {
	fmt.Fprintf(out, "%s, %d bytes, in by port %s\n", t.Packet, t.Length, t.In)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, s := range t.Steps {
		fmt.Fprintf(w, "%3d  %s\t%s\t%s\n", i+1, s.Stage, s.Result, s.Text)
	}
	w.Flush()
	reason := ""
	if t.Reason != "" {
		reason = " (" + t.Reason + ")"
	}
	fmt.Fprintf(out, "  => %s%s: %s\n", t.Verdict, reason, t.Why)
	if t.Remedy != "" {
		fmt.Fprintf(out, "     what to do: %s\n", t.Remedy)
	}
}

// frameOf reads the n-th frame of a capture file.
func frameOf(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
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
		src = old
	}
	for i := 1; ; i++ {
		b, _, err := src.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has %d frames, and not a frame %d", path, i-1, n)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, frame %d: %w", path, i, err)
		}
		if i == n {
			return b, nil
		}
	}
}
