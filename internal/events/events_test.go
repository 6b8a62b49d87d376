package events

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// A reader gets each event once, in order, and hears how many it has missed.
func TestLog(t *testing.T) {
	var l Log
	_, next, _, more := l.From(0)
	select {
	case <-more:
		t.Error("an event in an empty log")
	default:
	}
	for i := range 10 {
		l.Add(api.Event{Name: fmt.Sprint(i)})
	}
	<-more
	list, next, lost, _ := l.From(next)
	if len(list) != 10 || list[0].Name != "0" || list[9].Name != "9" || lost != 0 || next != 10 {
		t.Errorf("%d events, next %d, lost %d", len(list), next, lost)
	}
	for i := range 5000 {
		l.Add(api.Event{Name: fmt.Sprint(10 + i)})
	}
	list, next, lost, _ = l.From(next)
	if len(list) < remembered/2 || len(list) > remembered || int(lost)+len(list) != 5000 || list[len(list)-1].Name != "5009" || next != 5010 {
		t.Errorf("%d events, next %d, lost %d", len(list), next, lost)
	}
	if list, _, _, _ := l.From(next); len(list) != 0 {
		t.Errorf("%d events again", len(list))
	}
}

// Each object that comes, changes or goes is one event.
func TestBetween(t *testing.T) {
	var before, after model.State
	for _, s := range []*model.State{&before, &after} {
		n, err := s.NewNetwork(api.NetworkAdd{Name: "default", Subnet: "172.29.0.0/16"})
		if err != nil {
			t.Fatal(err)
		}
		s.Networks = []model.Network{n}
	}
	port := func(s *model.State, a api.PortAdd) {
		p, err := s.NewPort(a)
		if err != nil {
			t.Fatal(err)
		}
		s.Ports = append(s.Ports, p)
	}
	port(&before, api.PortAdd{Name: "gone", Netns: "a", IP: "172.29.0.9"})
	port(&before, api.PortAdd{Name: "web", Netns: "w", IP: "172.29.0.2"})
	port(&after, api.PortAdd{Name: "web", Netns: "w", IP: "172.29.0.2", Set: api.PortSet{"guard": api.Off, "rx_rate": "10mbit"}, Aliases: "www"})
	port(&after, api.PortAdd{Name: "new", Netns: "n", IP: "172.29.0.3"})
	n, err := after.NewNetwork(api.NetworkAdd{Name: "lab", Subnet: "172.30.0.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	after.Networks = append(after.Networks, n)
	p, err := after.NewPublish(api.PublishAdd{Spec: "8080:80", Port: "web"})
	if err != nil {
		t.Fatal(err)
	}
	after.Publishes = append(after.Publishes, p)
	var got []string
	for _, e := range Between(&before, &after) {
		got = append(got, e.Text)
	}
	want := []string{"port gone removed", "network lab added: 172.30.0.0/24", "port new added: tap eth0 172.29.0.3", "port web changed: guard off, rate_from 10mbit, aliases www", "publish " + p.String() + " added"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if again := Between(&after, &after); len(again) > 0 {
		t.Errorf("nothing has changed: %v", again)
	}

	renamed := after
	renamed.Ports, renamed.Publishes = slices.Clone(after.Ports), slices.Clone(after.Publishes)
	renamed.Ports[0].Name = "www"
	renamed.Publishes[0].Rename("www")
	if one := Between(&after, &renamed); len(one) != 1 || one[0].Text != "port www changed: its name was web" {
		t.Errorf("a new name: %v", one)
	}
}

// Leases that come and go without end do not push out what happened before. Another port's events stand, and the port's own go on later.
func TestStationsFillNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		s := Stations{Log: &l}
		l.Add(api.Event{Text: "before"})
		for range 10000 {
			s.Add(api.Event{Port: "evil", Text: "a lease"})
		}
		s.Add(api.Event{Port: "good", Text: "mine"})
		time.Sleep(time.Minute)
		s.Add(api.Event{Port: "evil", Text: "later"})
		list, _, _, _ := l.From(0)
		if len(list) != stationBurst+3 || list[0].Text != "before" || list[stationBurst+1].Text != "mine" || list[stationBurst+2].Text != "later; 9980 events of this port before it are left out" {
			t.Errorf("%d events, the last ones %+v", len(list), list[max(0, len(list)-2):])
		}
		for range 100 {
			s.Add(api.Event{Port: "evil", Reason: "much"})
		}
		s.Add(api.Event{Port: "evil", Reason: "what it hides"})
		if list, _, _, _ := l.From(0); list[len(list)-1].Reason != "what it hides" {
			t.Errorf("much of one reason hides another one: %+v", list[len(list)-1])
		}
	})
}
