// Package apiserver speaks for a switch: the control API on its unix socket, metrics and the live page beside it.
//
// routes.go is the API's table; requests are decoded and answered in http.go, views.go turns the switch's state into JSON,
// streams.go, flowevents.go and events.go follow frames, flows and what happens to the switch, openapi.go describes the table. What a request changes is package daemon's.
package apiserver

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/history"
	"github.com/uvswitch/uvswitch/internal/web"
)

// Options say where to serve, and what a reload reads.
type Options struct {
	Listener *net.UnixListener // the control socket
	Metrics  net.Listener      // see ListenReader; nil: not served
	Web      net.Listener      // of the live page, likewise
	Version  string
	Source   config.Source // the configuration file
	Log      *slog.Logger
}

// A Server serves one switch.
type Server struct {
	d       *daemon.Daemon
	dp      *dataplane.Dataplane
	opts    Options
	log     *slog.Logger
	capture *capture.Hub
	events  flowEvents
	turns   *turns
	servers []*http.Server
	token   web.Token // of the live page
	history *history.History
	forget  context.CancelFunc // ends the history's samples
	ended   chan error

	dropLogMu sync.Mutex // Lock 10: held while the last drops are collected
}

// Start serves d until Close.
func Start(d *daemon.Daemon, o Options) *Server {
	s := &Server{d: d, dp: d.Dataplane(), opts: o, log: o.Log, capture: capture.NewHub(d.Dataplane()), turns: newTurns(), token: web.NewToken(), history: history.New(), ended: make(chan error, 1)}
	ctx, forget := context.WithCancel(context.Background())
	s.forget = forget
	go s.history.Run(ctx, func() api.Stats { return s.view().stats() })
	s.serveReaders()
	control := &http.Server{Handler: patient(s.handler()), ReadHeaderTimeout: 10 * time.Second, ConnContext: rememberPeer, ConnState: newConnLimit().ConnState, ErrorLog: s.errorLog()}
	s.servers = append(s.servers, control)
	go func() {
		if err := control.Serve(descriptorListener{o.Listener}); !errors.Is(err, http.ErrServerClosed) {
			s.ended <- err
		}
	}()
	return s
}

// Ended receives the error with which the control API has ended by itself.
func (s *Server) Ended() <-chan error { return s.ended }

// Close ends every listener and every request.
func (s *Server) Close() {
	s.forget()
	for _, x := range s.servers {
		x.Close()
	}
}

func (s *Server) errorLog() *log.Logger { return slog.NewLogLogger(s.log.Handler(), slog.LevelDebug) }

// ReloadOnSignal reloads the switch's own file each time that a signal comes, until ctx is done. Errors are logged.
func (s *Server) ReloadOnSignal(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			done, err := s.reload("", false)
			for _, note := range done.Notes {
				s.log.Warn("a part of the configuration file does not count", "why", note)
			}
			if err != nil {
				s.log.Error("the reload on SIGHUP failed", "error", err)
			}
		}
	}
}

// reload makes the switch what a configuration says: file's text, or the switch's own file when that is empty.
func (s *Server) reload(file string, dry bool) (done api.Reload, err error) {
	c, notes, err := s.opts.Source.Load([]byte(file))
	if err != nil {
		return done, badRequest("%v", err)
	}
	done.Notes = notes
	done.Changes, err = s.d.Reload(c, dry)
	return done, err
}
