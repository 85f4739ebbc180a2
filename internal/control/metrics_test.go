package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

const atOnce = `
  - name: production
    ` + target + `
    rollout: {all-at-once: {bake: 2m}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// Where nothing runs beside it a release is compared with what the one before
// counted, and the verdict says so.
func TestBeforeAfter(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(atOnce)
		w.pause(20 * time.Minute)
		r, v2 := w.ship(w.definition(atOnce), "v2")
		s := w.untilState(r, run.Succeeded)
		if e := s.Environments[0]; e.Verdict != verdict.Pass || len(e.Metrics) != 1 || e.Metrics[0].Basis != "before-after" || e.PreviousRelease != v1 {
			w.Errorf("%+v", e)
		}
		w.pause(20 * time.Minute)
		bad, v3 := w.ship(w.definition(atOnce), "v3")
		w.hosts[0].bad[v3] = 0.2
		s = w.untilState(bad, run.RolledBack)
		if e := s.Environments[0]; e.Metrics[0].Basis != "before-after" || w.runs("production") != v2 {
			w.Errorf("%+v", e)
		}
	})
}

const orders = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, health: {http: /healthz}, metrics: {path: /metrics}}
    rollout: {canary: {steps: [{weight: 50, bake: 2m}]}}
    analysis:
      warmUp: 0s
      bin: 5s
      maxExcess: 5
      metrics: [{name: orders, kind: rate, bad: 'failed{r="$revision"}', total: 'orders{r="$revision",s="$service",e="$environment"}'}]
`

// shopOrders answers the queries of a custom metric: two series of 20 orders a
// second each, of which a release fails a share. A series begins when its
// release does.
type shopOrders struct {
	w     *world
	bad   map[string]float64
	began map[string]time.Time
	gone  bool
}

func (o *shopOrders) answer(q string) ([]Sample, error) {
	if o.gone {
		return nil, errors.New("connection refused")
	}
	if strings.HasPrefix(q, "sum(increase(") {
		return nil, nil
	}
	_, rest, _ := strings.Cut(q, `r="`)
	id, _, _ := strings.Cut(rest, `"`)
	if o.began[id].IsZero() {
		o.began[id] = o.w.clock.now()
	}
	n := o.w.clock.now().Sub(o.began[id]).Seconds() * 20
	if strings.HasPrefix(q, "failed") {
		n *= o.bad[id]
	}
	return []Sample{{Series: "a", Value: n}, {Series: "b", Value: n}}, nil
}

// A custom metric is judged by its series; when it is gone that is no data, and
// never a pass.
func TestCustomMetric(t *testing.T) {
	stories(t, func(w *world) {
		o := &shopOrders{w: w, bad: map[string]float64{}, began: map[string]time.Time{}}
		w.metrics.answer = o.answer
		v1 := w.first(orders)
		r, v2 := w.ship(w.definition(orders), "v2")
		s := w.untilState(r, run.Succeeded)
		if m := s.Environments[0].Metrics; len(m) != 1 || m[0].Name != "orders" || m[0].NC < 1000 || m[0].NB < 1000 || m[0].Verdict != verdict.Pass {
			w.Errorf("%+v", m)
		}
		asked := strings.Join(w.metrics.asked, "\n")
		for _, q := range []string{`failed{r="` + v1.Short() + `"}`, `orders{r="` + v2.Short() + `",s="shop",e="production"}`} {
			if !strings.Contains(asked, q) {
				w.Errorf("never asked %s", q)
			}
		}
		r3, v3 := w.ship(w.definition(orders), "v3")
		o.bad[v3.Short()] = 0.3
		w.untilState(r3, run.RolledBack)

		o.gone = true
		r4, _ := w.ship(w.definition(orders), "v4")
		w.until(r4, "held", func(s Status) bool { return s.Environments[0].Held != "" })
		if e := w.env(r4); e.Verdict != verdict.NoData || e.Weight != 50 {
			w.Errorf("%+v", e)
		}
		if !strings.Contains(w.logged.String(), "connection refused") {
			w.Error("nobody was told why the metric answers nothing")
		}
		o.gone = false
		w.untilState(r4, run.Succeeded)
	})
}

// Latency is judged by buckets.
func TestSlow(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(production, "[http-errors]", "[{name: http-latency, quantile: 0.9, maxRatio: 1.5}]", 1)
		w.first(env)
		w.pause(10 * time.Minute)
		r, v2 := w.ship(w.definition(env), "v2")
		w.hosts[0].latency[v2] = wire.LatencyIndex(400 * time.Millisecond)
		s := w.untilState(r, run.RolledBack)
		p := s.Environments[0].Points
		if last := p[len(p)-1]; last.C99 < 0.3 || last.B99 > 0.1 {
			w.Errorf("chart: %+v", last)
		}
	})
}

const twoHosts = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, hosts: [one, two], health: {http: /healthz}}
    rollout: {canary: {steps: [{weight: 20, bake: 1m}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// A step is done when every host says so; one that is silent holds the rollout,
// one that reports another weight too; strangers are not asked.
func TestHosts(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		stranger := w.addHost("three")
		w.first(twoHosts)
		if len(stranger.services) != 0 {
			w.Error("a host that is not named runs it")
		}
		r, v2 := w.ship(w.definition(twoHosts), "v2")
		two.startIn = 30 * time.Second
		w.until(r, "preparing", func(s Status) bool { return s.Environments[0].Phase == rollout.Preparing })
		w.pause(20 * time.Second)
		if e := w.env(r); e.Phase != rollout.Preparing || one.shop("production").revisions[v2].weight != 0 {
			w.Errorf("one host is ready, the other not: %s", e.Phase)
		}
		w.untilPhase(r, rollout.Baking, 20)
		// A stranger's word on the same service counts for nothing.
		o := one.observed()
		o.Host = "three"
		o.Services[0].Revisions[0].Phase, o.Services[0].Revisions[0].Reason = wire.Failed, "lies"
		o.Sequence = 1000
		w.must(w.front.Report(w.Context(), o))
		stranger.down = true
		w.pause(2 * time.Second)
		if e := w.env(r); e.Phase != rollout.Baking || e.Held != "" {
			w.Errorf("%s, held %q", e.Phase, e.Held)
		}

		two.down = true
		w.pause(8 * time.Second)
		held := w.env(r)
		if !strings.Contains(held.Held, "two") || !strings.Contains(held.Held, "unreachable") {
			w.Errorf("held: %q", held.Held)
		}
		w.pause(time.Minute)
		if e := w.env(r); e.Bake.ElapsedSeconds != held.Bake.ElapsedSeconds {
			w.Errorf("it bakes without a host: %+v, then %+v", held.Bake, e.Bake)
		}
		two.down = false
		w.pause(3 * time.Second)
		if e := w.env(r); e.Held != "" {
			w.Errorf("held though the host is back: %q", e.Held)
		}

		wrong := 5000
		two.drift = func(wire.Desired) *int { return &wrong }
		two.shop("production").revisions[v2].weight = wrong
		two.next = w.clock.now()
		w.pause(time.Second)
		if e := w.env(r); !strings.Contains(e.Held, "20 % to 50 %") {
			w.Errorf("held: %q", e.Held)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "go"}); err == nil {
			w.Error("an override went on over a wrong weight")
		}
		two.drift = nil
		w.pause(35 * time.Second) // what is wanted is repeated
		if got := two.shop("production").revisions[v2].weight; got != 2000 {
			w.Errorf("the weight is %d", got)
		}
		s := w.untilState(r, run.Succeeded)
		if s.Environments[0].Signals.CanaryRequests == 0 {
			w.Error("nothing was counted")
		}
	})
}

// A host whose counters begin anew is counted from nothing, not below it.
func TestCountersBeginAnew(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.pause(20 * time.Second)
		w.hosts[0].restart("boot-2")
		w.hosts[0].next = w.clock.now()
		w.untilState(r, run.Succeeded)
		sig := w.env(r).Signals
		served := int64(0)
		for _, p := range w.env(r).Points {
			if p.NC < 0 || p.NC > 1000 || p.NB < 0 {
				w.Errorf("bin %+v", p)
			}
			served += p.NC
		}
		if sig.CanaryRequests != served || served == 0 {
			w.Errorf("%d requests, %d in bins", sig.CanaryRequests, served)
		}
	})
}

// An old report says nothing.
func TestLateReport(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		late := w.hosts[0].observed()
		late.Sequence = 1
		late.Services[0].Revisions[1].Phase = wire.Failed
		w.must(w.front.Report(w.Context(), late))
		w.untilState(r, run.Succeeded)
		if w.runs("production") != v2 {
			w.Error("another release runs")
		}
	})
}

// Two environments: the release that succeeded in the first one, and no other,
// goes on to the second.
func TestOrder(t *testing.T) {
	stories(t, func(w *world) {
		env := "\n  - name: dev\n    " + strings.Replace(target, "9001", "9002", 1) + "\n    rollout: all-at-once\n" +
			strings.Replace(production, "    target:", "    after: [dev]\n    gates: [tests-passed, {name: small, cel: 'artifact.size < 2000'}]\n    target:", 1)
		def := w.definition(env)
		r, id := w.ship(def, "v1")
		s := w.untilState(r, run.Succeeded)
		if len(s.Environments) != 2 || len(s.Environments[1].Gates) != 4 {
			w.Errorf("%+v", s.Environments)
		}
		_, other := w.ship(def, "v2", setting("dev", "A", "b"))
		w.must(w.front.Abort(w.Context(), release.DefaultProject, "2", "", "", alice))
		direct, err := w.front.Promote(w.Context(), "default", other.Short(), "production", bob)
		w.must(err)
		if s := w.untilState(direct, run.Failed); !strings.Contains(s.Reason, "has not succeeded in dev") {
			w.Errorf("%s", s.Reason)
		}
		if _, err := w.front.Promote(w.Context(), "default", id.Short(), "moon", bob); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "dev, production") {
			w.Errorf("%v", err)
		}
		if _, err := w.front.Promote(w.Context(), "default", "", "dev", bob); !errors.Is(err, ErrInvalid) {
			w.Errorf("%v", err)
		}
	})
}
