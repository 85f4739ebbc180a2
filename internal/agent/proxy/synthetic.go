package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Synthetic is traffic that Sluice makes itself where there is too little of users.
type Synthetic struct {
	Rate  float64  // requests per second, over all paths
	Paths []string // requested in turn; none: /
	Host  string   // to ask for; empty: localhost
}

// Bounds of synthetic traffic.
const (
	maxSyntheticRate  = 1000
	maxSyntheticPaths = 100
	maxSyntheticOpen  = 32 // requests under way: more are left out
	syntheticIn       = 10 * time.Second
)

// Check reports what the proxy would not make.
func (y Synthetic) Check() error {
	if !(y.Rate > 0 && y.Rate <= maxSyntheticRate) { // NaN too
		return fmt.Errorf("couldn't make synthetic traffic: a rate of %v per second is not over 0 and at most %d", y.Rate, maxSyntheticRate)
	}
	if len(y.Paths) > maxSyntheticPaths {
		return fmt.Errorf("couldn't make synthetic traffic: %d paths are more than %d", len(y.Paths), maxSyntheticPaths)
	}
	for _, p := range y.Paths {
		if _, err := url.ParseRequestURI(p); err != nil || !strings.HasPrefix(p, "/") {
			return fmt.Errorf("couldn't make synthetic traffic: %.100q is not a path; it begins with a slash", p)
		}
	}
	return nil
}

// Synthesize sends requests through the proxy itself, without a listener, until
// ctx is done and the last of them ended. Each is a user of its own, so they are
// spread over the revisions as the weights say. They are counted by
// [Server.Synthetic] alone, and reach the service with "Sluice-Synthetic: 1".
// Requests of another process take part in that when they carry Sluice-Synthetic
// with [Options.Token].
func (s *Server) Synthesize(ctx context.Context, y Synthetic) error {
	if err := y.Check(); err != nil {
		return err
	}
	if len(y.Paths) == 0 {
		y.Paths = []string{"/"}
	}
	if y.Host == "" {
		y.Host = "localhost"
	}
	tr := &http.Transport{
		MaxIdleConnsPerHost: maxSyntheticOpen,
		DisableCompression:  true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if s.closing.Load() {
				return nil, errors.New("the proxy is closing")
			}
			ours, theirs := net.Pipe()
			s.start(theirs, true)
			return ours, nil
		},
	}
	var open sync.WaitGroup
	defer tr.CloseIdleConnections()
	defer open.Wait()
	slots := make(chan struct{}, maxSyntheticOpen)
	tick := time.NewTicker(time.Duration(float64(time.Second) / y.Rate))
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // the service is slower than the rate: that is no reason to flood it
		}
		path := y.Paths[i%len(y.Paths)]
		i++ // of those that are made: none is left out more often than another
		open.Go(func() {
			defer func() { <-slots }()
			// What was begun ends, or it would count as cancelled.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syntheticIn)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+y.Host+path, nil)
			if err != nil {
				s.opt.Logger.Debug("couldn't make a synthetic request", "error", err)
				return
			}
			req.Header.Set("User-Agent", "sluice-synthetic")
			res, err := tr.RoundTrip(req)
			if err != nil {
				s.opt.Logger.Debug("a synthetic request failed", "error", err)
				return
			}
			_, _ = io.CopyN(io.Discard, res.Body, shadowBytes)
			_ = res.Body.Close()
		})
	}
}
