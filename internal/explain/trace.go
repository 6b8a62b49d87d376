package explain

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
)

// A Switch is what a trace runs on.
type Switch struct {
	*model.State
	Dataplane *dataplane.Dataplane
	Claims    func(*frame.Frame) bool                                       // whether a frame from outside reaches the switch, rather than the host
	IsDown    func(port string) bool                                        // whether the device of a port is down
	Refusal   func(*frame.Frame) (why, remedy string, ok bool)              // which policy and rule refuse a frame
	NoSocket  func(*frame.Frame) frame.Reason                               // why no socket sends a frame that leaves
	UplinkMAC frame.MAC                                                     // the router's, on the uplink
	Way       func(t frame.Tuple, class uint8) (Way, error)                 // of a packet that leaves by the uplink
	Way6      func(inside uint32, t frame.Tuple6, class uint8) (Way, error) // of an IPv6 packet; inside is what its way header says of the inside address

	way Way // of the traced packet
}

// A Way is where the host's routing sends a packet.
type Way struct {
	Code            frame.WayCode // 0: it is sent
	Device          string
	NextHop, Source netip.Addr
	MTU             int  // bytes; 0: not known
	Socket          bool // a socket of the switch sends it
}

// Trace says what would happen to a packet, and why. The stages decide; this package describes what they did.
func Trace(s Switch, q api.TraceRequest) (api.Trace, error) {
	p := s.Port(q.In)
	if p == nil {
		return api.Trace{}, model.NoPort(q.In)
	}
	var raw []byte
	var err error
	if q.Hex != "" {
		raw, err = hexFrame(q.Hex)
	} else {
		raw, err = s.buildPacket(p, q.Packet)
	}
	if err != nil {
		return api.Trace{}, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	if p.Kind == model.KindUplink {
		var f frame.Frame
		f.Reset(raw, p.ID)
		if frame.Parse(&f); !s.Claims(&f) {
			why, remedy := s.staysWithHost(&f)
			return api.Trace{
				Packet: Text(&f), In: p.Name, Length: f.Len(), Ports: []string{}, Verdict: "passed", Why: why, Remedy: remedy,
				Steps: []api.TraceStep{{Stage: "uplink", Result: "host", Text: why}},
			}, nil
		}
	}
	var t api.Trace
	s.Dataplane.Trace(func(tr *dataplane.Tracer) {
		var answer []byte
		var by frame.PortID
		t, answer, by = s.traceOne(tr, p.ID, raw)
		switch {
		case !q.Reverse:
		case answer == nil:
			if t.Verdict != "answered" {
				t.Why += "; so there is no answer to trace"
			}
		default:
			back, _, _ := s.traceOne(tr, by, answer)
			t.Reverse = &back
		}
	})
	return t, nil
}

// slowPathStage is the name of the slow path in a trace.
const slowPathStage = "slow path"

// hexFrame reads a frame from the destination MAC on.
func hexFrame(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", ":", "").Replace(s))
	if err != nil {
		return nil, fmt.Errorf("the frame is not hexadecimal: %w", err)
	}
	if len(b) > frame.MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes is longer than the longest one, %d", len(b), frame.MaxFrame)
	}
	return append(make([]byte, frame.VnetLen), b...), nil
}

// traceOne runs one frame. The answer is what its receiver would send back, and by which port it would come.
func (s *Switch) traceOne(tr *dataplane.Tracer, in frame.PortID, raw []byte) (t api.Trace, answer []byte, by frame.PortID) {
	t = api.Trace{In: s.PortName(in), Length: len(raw) - frame.VnetLen, Steps: []api.TraceStep{}, Ports: []string{}}
	add := func(stage, result, text string) {
		t.Steps = append(t.Steps, api.TraceStep{Stage: stage, Result: result, Text: text})
	}
	original := bytes.Clone(raw)
	s.way = Way{}
	o := tr.Run(in, raw, func(stage string, before, f *dataplane.TracedFrame) {
		if stage == "parse" {
			t.Packet = Text(f.Frame)
		}
		result, text := s.narrate(stage, before, f)
		if f.Verdict == frame.Drop && before.Verdict != frame.Drop {
			result, text = "drop", f.Reason.Info().Meaning
			if rt, ok := s.Dataplane.Router.Lookup(before.RouteDst); ok && stage == "route" {
				text = fmt.Sprintf("%s is in %s; %s", before.RouteDst, s.routeText(rt), text)
			}
		}
		add(stage, result, text)
	})
	f := o.Frame
	for _, id := range o.Ports {
		t.Ports = append(t.Ports, s.PortName(id))
	}
	switch {
	case f.Verdict == frame.Drop:
		t.Verdict, t.Reason = "dropped", f.Reason.String()
		t.Why, t.Remedy = f.Reason.Info().Meaning, f.Reason.RemedyFor(t.In, s.PortName(f.Out))
	case o.Waits:
		t.Verdict, t.Reason = "held", f.Reason.String()
		if t.Why = f.Reason.Info().Meaning; f.Reason == frame.FragmentWaits {
			t.Why = "queued until the first fragment of its packet, which has the ports, arrives; else dropped: fragment_timeout"
		}
		add(slowPathStage, "hold", t.Why)
	case o.Slow != nil && len(o.Ports) == 0:
		s.narrateSlowPath(&t, f, o.Slow)
	default:
		if o.Slow != nil {
			s.narrateSlowPath(&t, f, o.Slow)
			t.Reason, t.Remedy = "", ""
		}
		t.Verdict, t.Out = "transmitted", Text(f)
		t.Why = "to port " + strings.Join(t.Ports, ", ")
		text := t.Out
		if n := len(o.Pieces); n > 0 {
			t.Why += fmt.Sprintf(", in %d fragments", n)
			text += fmt.Sprintf("; longer than the MTU of its way: cut into %d fragments", n)
		}
		for _, id := range o.Ports {
			if p := s.PortByID(id); p != nil {
				text += rateText(p.Name+" may receive", p.Tx)
			}
		}
		add("transmit", strings.Join(t.Ports, ","), text)
		if p := s.PortByID(o.Ports[0]); len(o.Ports) == 1 && p != nil && s.IsDown(p.Name) { // the kernel will refuse it
			i := frame.PortDown.Info()
			t.Verdict, t.Reason, t.Why, t.Remedy = "dropped", i.Name, i.Meaning+": "+p.Ifname, i.Remedy
			return t, nil, 0
		} else if len(o.Ports) == 1 && p != nil && p.Kind == model.KindUplink {
			stage, why := "socket", s.NoSocket(f)
			text := ""
			switch {
			case s.way.Code.IsFinal():
				stage, why = "way", s.way.Code.Reason()
			case s.way.MTU > 0 && f.Len() > frame.EthernetLen+s.way.MTU && (f.Flags&frame.IsIPv6 != 0 || f.IPv4().DontFrag()):
				stage, why, text = "way", frame.FragmentationNeeded, fmt.Sprintf("device %s takes packets of %d bytes at most; ", s.way.Device, s.way.MTU)
			}
			if why != frame.None {
				i := why.Info()
				t.Verdict, t.Reason, t.Why, t.Remedy = "dropped", i.Name, i.Meaning, i.Remedy
				add(stage, "drop", text+i.Meaning)
				return t, nil, 0
			}
		}
		if len(o.Ports) == 1 {
			if answer, by = reverseFrame(f), o.Ports[0]; answer != nil && s.PortByID(by).Kind == model.KindUplink {
				src, dst, _ := s.outsideMACs()
				var back frame.Frame
				back.Reset(answer, by)
				back.SetMACs(dst, src)
			}
		}
	}
	if t.Reason == frame.PolicyDenied.String() || t.Reason == frame.PolicyDropped.String() {
		var f frame.Frame
		f.Reset(original, in)
		frame.Parse(&f)
		if why, remedy, ok := s.Refusal(&f); ok {
			t.Why, t.Remedy = why, remedy
			t.Steps[len(t.Steps)-1].Text += ": " + why
		}
	}
	return t, answer, by
}

// staysWithHost says why a packet from outside is not the switch's, and how to change that.
func (s *Switch) staysWithHost(f *frame.Frame) (why, remedy string) {
	why = "the packet stays with the host: no flow has this port of the host, "
	port := f.Tuple.DstPort
	if f.Flags&frame.HasTuple == 0 || !frame.HasPorts(f.Proto) {
		return why + "and NAT does not serve it", ""
	}
	for i := range s.State.Publishes {
		if x := &s.State.Publishes[i]; x.Proto == frame.ProtoName(f.Proto) && x.Lo <= port && port <= x.Hi {
			return why + "and NAT does not serve it; the port is published, so the relay serves this client (`uvswitch publish ls`)", ""
		}
	}
	suffix := ""
	if f.Proto != frame.TCP {
		suffix = "/" + frame.ProtoName(f.Proto)
	}
	return why + "and it is not published", fmt.Sprintf("if a container serves it: `uvswitch publish add %d:PORT%s --port NAME`; PORT is where the program listens in the container, and NAME the container's port on the switch", port, suffix)
}
