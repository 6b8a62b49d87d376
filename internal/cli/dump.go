package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
)

// dumpFlags are the flags of `dump`, mostly those of tcpdump.
type dumpFlags struct {
	ports                       []string
	file, dir                   string
	count, snap, megabytes      int
	files, seconds              int
	drops, split, pcap          bool
	ether, absolute             bool
	hex, hexASCII, stamps       int
	ascii, brief, number, print bool
	verbosity                   int
	nano                        bool
	precision, expression       string // --time-stamp-precision; -F: a file
	list, quiet                 bool   // quiet: for Wireshark, which takes every message for an error
}

func (a *app) dumpCommand() *cobra.Command {
	f := dumpFlags{}
	c := &cobra.Command{
		Use: "dump [-i PORT,...|any] [-w FILE|-] [-c N] [EXPRESSION]", Short: "Capture frames, as tcpdump does",
		Long: "Capture frames when they come in from a port, and when they go out to a port. The output is text, or pcapng with -w. In pcapng,\n" +
			"every port is an interface, and every packet has a comment with its verdict. A translated packet appears twice: before\n" +
			"translation on its ingress port, and after translation on its egress port, with the number of its flow (id in `-j flow ls`).\n\n" +
			"EXPRESSION is a filter in tcpdump's language. The switch applies the filter before it copies a frame. Names are not resolved.",
	}
	f.add(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := refuseTcpdumpFlags(c.Flags()); err != nil {
			return err
		}
		return a.dump(c.Context(), &f, strings.Join(args, " "))
	}
	return c
}

func (f *dumpFlags) add(fl *pflag.FlagSet) {
	fl.StringSliceVarP(&f.ports, "interface", "i", nil, "names of ports, separated by commas; any means all ports (default any)")
	fl.StringVarP(&f.file, "write", "w", "", "write pcapng to this file; - is standard output")
	fl.StringVarP(&f.dir, "dir", "Q", "both", "direction: in (from the port), out (to the port) or both")
	fl.IntVarP(&f.count, "count", "c", 0, "stop after N packets")
	fl.IntVarP(&f.snap, "snapshot-length", "s", 0, "capture only this many bytes of each packet (default: all)")
	fl.IntVarP(&f.megabytes, "file-size", "C", 0, "with -w: start a new file after this many million bytes: FILE, FILE1, FILE2, ...")
	fl.IntVarP(&f.files, "file-count", "W", 0, "with -C: keep N files and overwrite the oldest one; with -G: stop after N files")
	fl.IntVarP(&f.seconds, "rotate", "G", 0, "with -w: start a new file every N seconds; %Y %m %d %H %M %S %s in FILE are replaced by its start time")
	fl.BoolVar(&f.drops, "drops", false, "capture only dropped frames")
	fl.BoolVar(&f.split, "split", false, "split super-frames (up to 64 KiB, as segmentation offload makes them) into the frames that a wire would carry")
	fl.BoolVar(&f.pcap, "pcap", false, "with -w: write the older pcap format, which has no port names and no comments")
	fl.BoolVarP(&f.ether, "ether", "e", false, "print MAC addresses and the EtherType")
	fl.BoolVarP(&f.absolute, "absolute", "S", false, "print absolute TCP sequence numbers")
	fl.CountVarP(&f.verbosity, "verbose", "v", "print the IP header and the verdict of each packet; -vv and -vvv print the same")
	fl.BoolVarP(&f.brief, "quick", "q", false, "print less of each packet: protocol, ends and length")
	fl.BoolVarP(&f.number, "number", "#", false, "print a number before each packet")
	fl.BoolVarP(&f.ascii, "ascii", "A", false, "print the bytes as ASCII, without the Ethernet header: for web pages")
	fl.BoolVar(&f.print, "print", false, "with -w: print the packets, too")
	fl.BoolVar(&f.nano, "nano", false, "print nanoseconds; a file has them anyway")
	fl.StringVar(&f.precision, "time-stamp-precision", "micro", "micro or nano: as --nano")
	fl.StringVarP(&f.expression, "filter-file", "F", "", "read the EXPRESSION from this file")
	fl.CountVarP(&f.hex, "hex", "x", "print the bytes in hexadecimal, without the Ethernet header; -xx includes the header")
	fl.CountVarP(&f.hexASCII, "hex-ascii", "X", "print the bytes in hexadecimal and ASCII, without the Ethernet header; -XX includes the header")
	fl.BoolVarP(&f.list, "list-interfaces", "D", false, "list the ports and exit")
	fl.CountVarP(&f.stamps, "no-time", "t", "-t: no time; -tt: seconds since 1970; -ttt: time since the previous packet; -tttt: date and time; -ttttt: time since the first packet")
	addTcpdumpFlags(fl)
}

func (a *app) dump(ctx context.Context, f *dumpFlags, expr string) error {
	switch {
	case f.list:
		return get(ctx, a, "/ports", func(w io.Writer, rows []api.Port) {
			for i, p := range rows {
				row(w, fmt.Sprintf("%d.%s", i+1, p.Name), fmt.Sprintf("(%s %s, network %s)", p.Kind, p.Ifname, orDash(p.Network)))
			}
		})
	case f.precision != "micro" && f.precision != "nano":
		return usagef("--time-stamp-precision %s: must be micro or nano", f.precision)
	case f.expression != "" && expr != "":
		return usagef("-F has the expression; leave out %q", expr)
	case f.print && f.file == "":
		return usagef("--print is for -w; without -w, packets are printed")
	case f.print && f.file == "-":
		return usagef("--print and -w - both write to standard output; use -w FILE")
	case a.json:
		return usagef("dump has no JSON output: it prints text, or pcapng with -w; use `uvswitch -j monitor` for JSON")
	case f.file == "" && (f.megabytes > 0 || f.files > 0 || f.seconds > 0 || f.pcap):
		return usagef("-C, -W, -G and --pcap need an output file; add -w FILE")
	case f.file == "-" && (f.megabytes > 0 || f.seconds > 0):
		return usagef("-C and -G need a file, and -w - is standard output; use -w FILE")
	case f.files > 0 && f.megabytes == 0 && f.seconds == 0:
		return usagef("-W limits the number of files; add -C or -G, which create them")
	case f.count < 0 || f.snap < 0 || f.megabytes < 0 || f.files < 0 || f.seconds < 0:
		return usagef("-c, -s, -C, -W and -G must be numbers from 1")
	}
	if f.expression != "" {
		text, err := os.ReadFile(f.expression)
		if err != nil {
			return err
		}
		expr = strings.TrimSpace(string(text))
	}
	q := url.Values{"count": {strconv.Itoa(f.count)}, "snap": {strconv.Itoa(f.snap)}, "dir": {f.dir}, "filter": {expr}}
	for _, p := range f.ports {
		if p != "any" {
			q.Add("port", p)
		}
	}
	if f.drops {
		q.Set("drops", "1")
	}
	if f.split {
		q.Set("split", "1")
	}
	stream, err := a.client().Stream(ctx, "GET", "/capture?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer stream.Close()
	r := capture.NewReader(stream)
	if err := r.Begin(); err != nil { // after it, the capture has begun
		return cut(ctx, err)
	}
	var to sink
	if f.file == "" {
		to = newPrinter(a.out, f)
	} else if to, err = newFiles(a.out, f, r); err != nil {
		return err
	} else if f.print {
		to = both{to, newPrinter(a.out, f)}
	}
	where := "any"
	if len(f.ports) > 0 {
		where = strings.Join(f.ports, ", ")
	}
	if !f.quiet {
		fmt.Fprintf(a.err, "uvswitch: listening on %s\n", where)
	}
	defer context.AfterFunc(ctx, func() { // a reader of a pipe may have stopped reading
		if s, ok := to.(interface{ abandon() }); ok {
			s.abandon()
		}
	})()
	n, lost := 0, uint64(0)
	for err == nil {
		var p capture.Packet
		if p, err = r.Next(); err == nil {
			n++
			lost += p.Lost
			err = to.packet(&p)
		}
	}
	if errors.Is(err, errDone) {
		err = nil
	}
	err = errors.Join(cut(ctx, err), to.close())
	if f.quiet {
		return err
	}
	fmt.Fprintf(a.err, "%d packets captured\n%d packets lost (a slow reader, or captures used up their time)\n", n, lost)
	return err
}

// cut returns the error that ended a stream, in words; nil when the stream ended normally: at its count, or when interrupted.
func cut(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the switch closed the connection: the switch was stopped, or this reader was too slow")
	}
	return err
}

// A sink takes the packets of a capture.
type sink interface {
	packet(*capture.Packet) error
	close() error
}

// both is a file, and what is printed of it.
type both struct{ sink, printer sink }

func (b both) packet(p *capture.Packet) error {
	return errors.Join(b.printer.packet(p), b.sink.packet(p))
}

func (b both) close() error { return b.sink.close() }

func (b both) abandon() { b.sink.(*files).abandon() }

var errDone = errors.New("enough")

// files writes packets to a file, or to a sequence of files.
type files struct {
	f       *dumpFlags
	r       *capture.Reader
	w       io.WriteCloser
	n       int // number of the current file
	written int64
	began   time.Time
}

type notClosed struct{ io.Writer }

func (notClosed) Close() error { return nil }

func newFiles(out io.Writer, f *dumpFlags, r *capture.Reader) (*files, error) {
	s := &files{f: f, r: r}
	if f.file == "-" {
		s.w = notClosed{out}
		return s, s.begin()
	}
	return s, s.open(time.Now())
}

// abandon unblocks a write to a pipe that nobody reads.
func (s *files) abandon() {
	if f, ok := s.w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			_ = f.SetWriteDeadline(time.Now()) // a file that has no deadlines does not block
		}
	}
}

// begin writes the header of a file at once, so that a reader sees a valid capture before the first packet.
func (s *files) begin() error {
	head := s.r.Head
	if s.f.pcap {
		head = pcapHead(s.f.snap)
	}
	s.r.Fresh = nil
	n, err := s.w.Write(head)
	s.written = int64(n)
	return err
}

// open opens file number s.n and writes its header.
func (s *files) open(now time.Time) error {
	name := s.f.file
	if s.f.seconds > 0 {
		name = strftime(name, now)
	}
	if s.f.megabytes > 0 && (s.n > 0 || s.f.files > 0) {
		width := 1
		if s.f.files > 0 {
			width = len(strconv.Itoa(s.f.files - 1))
		}
		name += fmt.Sprintf("%0*d", width, s.n)
	}
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666) // not O_RDWR: a pipe would then have this process as a reader
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	s.w, s.began = w, now
	return s.begin()
}

func (s *files) packet(p *capture.Packet) error {
	full := s.f.megabytes > 0 && s.written > int64(s.f.megabytes)*1e6
	if late := s.f.seconds > 0 && p.Time.Sub(s.began) >= time.Duration(s.f.seconds)*time.Second; full || late {
		if err := s.next(p.Time, late && !full); err != nil {
			return err
		}
	}
	body := append(s.r.Fresh, s.r.Raw...) // Fresh: the interfaces that were added since the last packet
	if s.f.pcap {
		body = pcapPacket(p)
	}
	s.r.Fresh = nil
	n, err := s.w.Write(body)
	s.written += int64(n)
	return err
}

func (s *files) next(now time.Time, byTime bool) error {
	if err := s.w.Close(); err != nil {
		return err
	}
	s.n++
	switch {
	case byTime && s.f.files > 0 && s.n >= s.f.files && s.f.megabytes == 0:
		s.w = notClosed{io.Discard}
		return errDone
	case s.f.files > 0 && s.f.megabytes > 0:
		s.n %= s.f.files
	}
	return s.open(now)
}

func (s *files) close() error { return s.w.Close() }

// strftime replaces the conversions of strftime(3) that file names use.
func strftime(s string, t time.Time) string {
	return strings.NewReplacer("%Y", t.Format("2006"), "%m", t.Format("01"), "%d", t.Format("02"), "%H", t.Format("15"), "%M", t.Format("04"),
		"%S", t.Format("05"), "%s", strconv.FormatInt(t.Unix(), 10), "%%", "%").Replace(s)
}
