package agent

import (
	"context"
	"reflect"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
)

// generator is what the proxy makes for a desired state.
func generator(d wire.Desired) proxy.Synthetic {
	return proxy.Synthetic{Rate: d.Synthetic.Rate, Paths: d.Synthetic.Paths, Host: d.Service}
}

// settleSynthetic has the proxy make the traffic that is wanted now, and no other.
func (a *agent) settleSynthetic(s *service) {
	want := s.desired.Synthetic
	if s.desired.Removed {
		want = nil
	}
	if reflect.DeepEqual(want, s.made) {
		return
	}
	if s.unmake != nil {
		s.unmake()
	}
	s.made, s.unmake = want, nil
	if want == nil {
		return
	}
	ctx, cancel := context.WithCancel(a.ctx)
	s.unmake = cancel
	y := generator(s.desired)
	a.tasks.Go(func() {
		if err := s.proxy.Synthesize(ctx, y); err != nil {
			a.cfg.Logger.Error("couldn't make synthetic traffic", "service", s.key.String(), "error", err)
		}
	})
}
