package supervise

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

// prober asks instances whether they are well. Each question is a connection of
// its own, as a new client's would be.
type prober struct{ client *http.Client }

func newProber() prober {
	return prober{&http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// ask returns nil when the instance is well: a status of 200 to 399, or without a
// path an open port.
func (p prober) ask(ctx context.Context, h wire.Health, port int) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if h.HTTP == "" {
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("no connection to port %d: %w", port, err)
		}
		return nc.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+h.HTTP, nil)
	if err != nil {
		return fmt.Errorf("health path %.100q is not a path: %w", h.HTTP, err)
	}
	req.Header.Set("User-Agent", "sluice-health")
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	if res.StatusCode < 200 || res.StatusCode >= 400 {
		return fmt.Errorf("GET %s answered %s", h.HTTP, res.Status)
	}
	return nil
}

// silent says that there is nothing to ask.
func (s Spec) silent() bool { return s.NoPort && s.Health.HTTP == "" }

// withDefaults fills in what the control plane left out; see pipeline.Health.
func withDefaults(h wire.Health) wire.Health {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&h.Timeout, time.Second)
	def(&h.Interval, time.Second)
	def(&h.StartIn, time.Minute)
	if h.DrainIn < 0 {
		h.DrainIn = 0
	}
	h.Healthy = max(h.Healthy, 1)
	if h.Failing <= 0 {
		h.Failing = 3
	}
	return h
}
