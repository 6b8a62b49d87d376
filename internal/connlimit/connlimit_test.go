package connlimit

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// However many connections others hold, idle or slow, who is favored keeps his, and a new one is served.
func TestConnectionsAreBounded(t *testing.T) {
	l := New(8, func(net.Conn) (int64, bool) { return 0, true })
	type key struct{}
	enter, leave := make(chan struct{}), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			l.Favor(r.Context().Value(key{}).(net.Conn))
		}
		switch r.URL.Path {
		case "/stream":
			_ = http.NewResponseController(w).Flush()
			for range 3 {
				enter <- struct{}{}
				_, err := io.WriteString(w, "line\n")
				if err == nil {
					err = http.NewResponseController(w).Flush()
				}
				if err != nil {
					t.Errorf("the favored stream: %v", err)
				}
			}
		case "/slow":
			select {
			case <-leave:
			case <-r.Context().Done():
			}
		}
	}))
	server.Config.ConnState = l.ConnState
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, key{}, c) }
	server.Start()
	defer server.Close()
	defer close(leave)
	at := server.Listener.Addr().String()
	open := func(request string) net.Conn {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		return c
	}
	stream := open("GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: yes\r\n\r\n")
	lines := bufio.NewReader(stream)
	if _, err := http.ReadResponse(lines, nil); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{"", "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"} {
		for range 40 {
			open(request)
		}
		<-enter
		c := open("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != http.StatusOK {
			t.Errorf("beside 40 connections with %q, another one: %v", request, err)
		}
		l.mu.Lock()
		if n := len(l.conns); n > l.most {
			t.Errorf("%d connections are open", n)
		}
		l.mu.Unlock()
	}
	<-enter
	if text, err := lines.ReadString('\n'); err != nil {
		t.Errorf("the stream ended: %q, %v", text, err)
	}
}
