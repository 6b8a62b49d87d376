package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// quickly answers a message as workers do; nil: the message is left to Ask.
func quickly(t testing.TB, z *Zones, net frame.NetID, message []byte, limit int) []byte {
	t.Helper()
	m := append(make([]byte, 0, 2048), message...)
	n := 0
	if of := z.networks[net]; of != nil {
		n = z.quick(of, m, limit, new(atomic.Uint32))
	}
	if n == 0 && !bytes.Equal(m, message) {
		t.Fatalf("a question was changed, and not answered: %x to %x", message, m)
	}
	if n == 0 {
		return nil
	}
	return m[:n]
}

// same checks that two answers say the same; several addresses may be in any order.
func same(t testing.TB, quick, slow []byte) {
	t.Helper()
	var a, b dnsmessage.Message
	if err := a.Unpack(quick); err != nil {
		t.Fatalf("a quick answer that cannot be read: %v: %x", err, quick)
	}
	if err := b.Unpack(slow); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*dnsmessage.Message{&a, &b} {
		for _, list := range [][]dnsmessage.Resource{m.Answers, m.Authorities, m.Additionals} {
			for i := range list {
				list[i].Header.Length = 0 // with or without references
			}
			slices.SortFunc(list, func(x, y dnsmessage.Resource) int {
				return strings.Compare(fmt.Sprint(x.Body), fmt.Sprint(y.Body))
			})
		}
	}
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("quick: %v\nslow:  %v", a.GoString(), b.GoString())
	}
}

// Workers say what Ask says, about each name that they know; they know the addresses of each.
func TestQuickSaysTheSame(t *testing.T) {
	z := testZones()
	answered := 0
	for _, name := range []string{
		"web.", "WEB.", "db.", "a.b.c.", "b.c.", "gateway.", "crowd.", "cell.", "mouse.", "web.front.uvs.internal.", "Db.Front.uvs.Internal.", "web.example.org.", "crowd.example.org.",
		"cell.alone.uvs.internal.", "c.home.arpa.", "nobody.", "localhost.", "www.example.com.", "front.uvs.internal.", ".", "uvs.internal.", "3.0.30.172.in-addr.arpa.",
	} {
		for net := frame.NetID(1); net <= 6; net++ {
			for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeMX, dnsmessage.TypePTR, dnsmessage.TypeALL} {
				for _, edns := range []int{0, 1, 512, 1232, 4096} {
					message := ask(name, typ, edns)
					q, ok := parse(message, true, 1472)
					if !ok {
						t.Fatal(name)
					}
					quick, slow := quickly(t, z, net, message, 1472), z.answer(0, net, &q)
					if quick == nil {
						continue
					}
					answered++
					if slow == nil {
						t.Fatalf("%s: a question for others was answered", name)
					}
					same(t, quick, slow)
				}
			}
		}
	}
	if answered != 295 {
		t.Errorf("%d answers", answered)
	}
}

// Several addresses take turns to be the first.
func TestQuickTurns(t *testing.T) {
	z := testZones()
	first := map[string]bool{}
	var turn atomic.Uint32
	for range 60 {
		m := append(make([]byte, 0, 2048), ask("crowd.", dnsmessage.TypeA, 4096)...)
		n := z.quick(z.networks[2], m, 1472, &turn)
		var a dnsmessage.Message
		if err := a.Unpack(m[:n]); err != nil {
			t.Fatal(err)
		}
		first[fmt.Sprint(a.Answers[0].Body)] = true
	}
	if len(first) != 60 {
		t.Errorf("%d of 60 addresses were the first", len(first))
	}
}

// A worker waits for nobody, so it allocates nothing.
func TestQuickAllocatesNothing(t *testing.T) {
	s := NewServer("")
	s.SetZones(testZones())
	question, m := ask("web.front.uvs.internal.", dnsmessage.TypeAAAA, 1232), make([]byte, 2048)
	if n := testing.AllocsPerRun(100, func() {
		if s.Quick(1, 1, m[:copy(m, question)], 1472) == 0 {
			t.Fatal("no answer")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s.Own.Load() == 0 {
		t.Error("quick answers are not counted")
	}
}

func BenchmarkQuick(b *testing.B) {
	s := NewServer("")
	s.SetZones(testZones())
	question, m := ask("web.front.uvs.internal.", dnsmessage.TypeA, 1232), make([]byte, 2048)
	for b.Loop() {
		s.Quick(1, 1, m[:copy(m, question)], 1472)
	}
}

// No message makes a quick answer differ from the slow one, or be longer than it may.
func FuzzQuick(f *testing.F) {
	f.Add(ask("web.", dnsmessage.TypeA, 0), uint16(1472))
	f.Add(ask("crowd.example.org.", dnsmessage.TypeA, 4096), uint16(700))
	f.Add(ask("DB.front.uvs.internal.", dnsmessage.TypeAAAA, 512), uint16(1472))
	z := testZones()
	f.Fuzz(func(t *testing.T, message []byte, limit uint16) {
		for net := frame.NetID(1); net < 5; net++ {
			if len(message) > 2048 {
				return
			}
			m := quickly(t, z, net, message, int(limit))
			if m == nil {
				continue
			}
			q, ok := parse(message, true, max(int(limit), len(m)))
			if !ok || len(m) > int(limit) {
				t.Fatalf("%x to %x, of %d bytes", m, message, limit)
			}
			slow := z.answer(0, net, &q)
			if slow == nil {
				t.Fatalf("%x to %x: others are to be asked", m, message)
			}
			same(t, m, slow)
		}
	})
}

// BenchmarkZones is what a change of the configuration costs with a thousand names.
func BenchmarkZones(b *testing.B) {
	n := &Network{Domain: "default.uvs.internal.", Names: map[string][]netip.Addr{}}
	for i := range 1000 {
		n.Names[fmt.Sprint("name", i)] = addrs("172.29.0.2", "fd00::2")
	}
	for b.Loop() {
		NewZones("uvs.internal.", "uvs0", map[frame.NetID]*Network{1: n})
	}
}
