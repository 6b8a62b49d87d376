package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A client that does not read the metrics keeps nobody from them.
func TestSlowReadersOfMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "answer", Help: "The answer."}))
	h := promhttp.HandlerFor(r, scrapes)
	ask := func(w http.ResponseWriter) { h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil)) }
	for range scrapes.MaxRequestsInFlight {
		slow := &slowClient{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
		go ask(slow)
		<-slow.writes
		defer close(slow.read)
	}
	w := httptest.NewRecorder()
	ask(w)
	if body, _ := io.ReadAll(w.Body); w.Code != http.StatusOK || len(body) == 0 || w.Header().Get("Content-Type") == "" {
		t.Errorf("%d %v: %s", w.Code, w.Header(), body)
	}
}

// A slowClient reads nothing until read is closed.
type slowClient struct {
	*httptest.ResponseRecorder
	writes, read chan struct{}
}

func (c *slowClient) Write(b []byte) (int, error) {
	close(c.writes)
	<-c.read
	return len(b), nil
}
