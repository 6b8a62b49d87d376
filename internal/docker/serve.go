package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
)

// maxBody is the maximum size of a request, in bytes: enough for thousands of published ports.
const maxBody = 4 << 20

// patience is the time limit of one call: Docker waits for the answer.
const patience = 30 * time.Second

// Start restores the state in the file at path, then answers Docker's calls on l until ctx is done.
func Start(ctx context.Context, l net.Listener, sw Switch, maker tapmaker.Maker, path string, log *slog.Logger) error {
	s, err := load(path)
	if err != nil {
		return err
	}
	d := &Driver{sw: sw, devices: taps{maker}, path: path, engine: engineOf(os.Getenv), log: log, state: s}
	if err := d.restore(ctx); err != nil {
		return err
	}
	server := &http.Server{Handler: d.handler(), ReadHeaderTimeout: patience, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() { _ = server.Serve(l) }() // ends with ctx
	context.AfterFunc(ctx, func() { server.Close() })
	go d.follow(ctx)
	return nil
}

// follow checks every second whether Docker has renamed a device, and learns the names of containers.
func (d *Driver) follow(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := d.learnIfnames(ctx); err != nil {
				d.log.Error("docker: cannot save the names of the containers' devices", "error", err)
			}
			if err := d.learnNames(ctx, time.Now()); err != nil {
				d.log.Debug("docker: the names of containers are not known", "error", err)
			}
		}
	}
}

// handler answers the methods of the protocol. An unknown method gets 404, which Docker takes as "not implemented".
func (d *Driver) handler() http.Handler {
	m := http.NewServeMux()
	fixed := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { answer(w, v, nil) }
	}
	m.HandleFunc("POST /Plugin.Activate", fixed(map[string][]string{"Implements": {"NetworkDriver"}}))
	m.HandleFunc("POST /NetworkDriver.GetCapabilities", fixed(map[string]string{"Scope": "local", "ConnectivityScope": "local"}))
	m.HandleFunc("POST /NetworkDriver.DiscoverNew", fixed(nil))
	m.HandleFunc("POST /NetworkDriver.DiscoverDelete", fixed(nil))
	m.HandleFunc("POST /NetworkDriver.CreateNetwork", call(d, d.createNetwork))
	m.HandleFunc("POST /NetworkDriver.DeleteNetwork", call(d, d.deleteNetwork))
	m.HandleFunc("POST /NetworkDriver.CreateEndpoint", call(d, d.createEndpoint))
	m.HandleFunc("POST /NetworkDriver.DeleteEndpoint", call(d, d.deleteEndpoint))
	m.HandleFunc("POST /NetworkDriver.Join", call(d, d.join))
	m.HandleFunc("POST /NetworkDriver.Leave", call(d, d.leave))
	m.HandleFunc("POST /NetworkDriver.EndpointOperInfo", call(d, d.endpointInfo))
	m.HandleFunc("POST /NetworkDriver.ProgramExternalConnectivity", call(d, d.programExternal))
	m.HandleFunc("POST /NetworkDriver.RevokeExternalConnectivity", call(d, d.revokeExternal))
	return m
}

// call returns the handler of one method. Calls run one at a time, and to the end even when Docker hangs up: it would not undo
// half.
func call[T interface{ ids() []string }](d *Driver, do func(context.Context, T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q T
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
			answer(w, nil, fmt.Errorf("the body of the request is not valid: %w", err))
			return
		}
		for _, id := range q.ids() {
			if !validID(id) {
				answer(w, nil, fmt.Errorf("%q is not a Docker ID", id))
				return
			}
		}
		v, err := func() (any, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
			defer cancel()
			return do(ctx, q)
		}()
		d.log.Debug("docker: call answered", "call", r.URL.Path, "error", err)
		answer(w, v, err)
	}
}

// inDockersWords are options of docker network create, by those of uvswitch.
var inDockersWords = map[string]string{"--subnet6": "--subnet", "--gateway6": "--gateway", "--nat6": "-o nat6", "--in6": "-o in6", "--ra": "-o ra", "--nd-proxy": "-o nd-proxy"}

// answer writes an answer in Docker's form. An error has status 500 and its text under Err: 404 would mean an unknown method.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.1+json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		v = map[string]string{"Err": api.ReplaceOptions(err.Error(), inDockersWords)}
	}
	if v == nil {
		v = struct{}{}
	}
	_ = json.NewEncoder(w).Encode(v) // Docker may have hung up
}
