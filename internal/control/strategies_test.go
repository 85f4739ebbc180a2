package control

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// placed is what hosts were told of two releases, line by line: instances of the
// old and the new one, and the new one's weight.
func placed(h *fakeHost, old, candidate release.ID) string {
	var out []string
	for _, a := range h.shop("production").journal {
		var o, n wire.Revision
		for _, r := range a.doc.Revisions {
			switch r.Release {
			case old:
				o = r
			case candidate:
				n = r
			}
		}
		if n.Release == "" {
			continue
		}
		out = append(out, fmt.Sprintf("%d+%d %d%%", o.Instances, n.Instances, n.Weight/100))
	}
	return strings.Join(out, ", ")
}

const rollingHosts = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, hosts: [one, two], instances: 2, health: {http: /healthz}}
    rollout: {rolling: {batch: 1, bake: 1m%s}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// A rolling replacement goes host by host: the candidate starts beside the old
// ones, takes their users, and they go. In the end nothing of the old one runs.
func TestRolling(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		def := w.definition(fmt.Sprintf(rollingHosts, ""))
		w.first(fmt.Sprintf(rollingHosts, ""))
		v1 := w.runs("production")
		w.pause(time.Minute)
		r, v2 := w.ship(def, "v2")
		s := w.untilState(r, run.Succeeded)
		if s.Environments[0].Strategy != "rolling" || s.Environments[0].Weight != 100 {
			w.Errorf("status: %+v", s.Environments[0])
		}
		if got, want := placed(one, v1, v2), "2+1 0%, 1+1 50%, 1+2 50%, 0+2 100%, 0+2 100%, 0+2 100%, 0+2 100%, 0+2 100%, 0+2 100%"; got != want {
			w.Errorf("host one:\n%s\nwanted\n%s", got, want)
		}
		if got, want := placed(two, v1, v2), "2+0 0%, 2+0 0%, 2+0 0%, 2+0 0%, 2+1 0%, 1+1 50%, 1+2 50%, 0+2 100%"; !strings.HasPrefix(got, want) {
			w.Errorf("host two:\n%s\nwanted\n%s", got, want)
		}
		w.pause(3 * time.Second)
		if w.place("production").RetireAt != nil || len(one.shop("production").doc.Revisions) != 1 {
			w.Errorf("the old release is said to be warm: %+v", one.shop("production").doc)
		}
		way, err := w.front.WayBack(w.Context(), "default", "shop", "production", "")
		if err != nil || way.Kind != "cold" {
			w.Errorf("way back: %+v, %v", way, err)
		}
	})
}

// In the middle of it the previous release gets its instances back before it gets
// its users back.
func TestRollingBackFromTheMiddle(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		yaml := fmt.Sprintf(rollingHosts, ", additionalBatch: false")
		v1 := w.first(yaml)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(yaml), "v2")
		w.until(r, "all of host one is replaced", func(s Status) bool {
			return s.Environments[0].Phase == rollout.Baking && strings.Contains(placed(one, v1, v2), "0+2 100%")
		})
		one.bad[v2] = 0.5
		w.untilState(r, run.RolledBack)
		got := placed(one, v1, v2)
		if want := "2+0 0%, 1+1 0%, 1+1 50%, 0+2 100%, 0+2 100%, 2+2 100%, 2+2 0%"; got != want {
			w.Errorf("host one:\n%s\nwanted\n%s", got, want)
		}
		if got := placed(two, v1, v2); strings.Contains(got, "50%") || strings.Contains(got, "100%") {
			w.Errorf("host two: %s", got)
		}
		if w.runs("production") != v1 {
			w.Error("it is not what ran before")
		}
	})
}

const twoGroups = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, preview: 127.0.0.1:9101, run: ./app, health: {http: /healthz}}
    rollout: {blue-green: {bake: 1m, retireAfter: 2h, preTraffic: [{name: ready, http: {path: /, contains: hello, timeout: 5m, retries: 0}}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// Blue/green: nobody meets a group that its check refused; one that it took gets
// everybody at once, and the old group stays for the way back.
func TestBlueGreen(t *testing.T) {
	stories(t, func(w *world) {
		h := w.hosts[0]
		body := "hello"
		h.answer = func(rw http.ResponseWriter) { _, _ = rw.Write([]byte(body)) }
		v1 := w.first(twoGroups)
		w.pause(2 * time.Minute)
		body = "sorry"
		r, v2 := w.ship(w.definition(twoGroups), "v2")
		s := w.untilState(r, run.Failed)
		if e := s.Environments[0]; !strings.Contains(e.Reason, "ready") || strings.Contains(placed(h, v1, v2), "100%") {
			w.Errorf("%+v\n%s", e, placed(h, v1, v2))
		}
		body = "hello"
		r, v3 := w.ship(w.definition(twoGroups), "v3")
		w.until(r, "switched", func(s Status) bool { return s.Environments[0].Phase == rollout.Baking })
		if e := w.env(r); len(e.Preview) != 1 || e.Preview[0] == "" {
			w.Errorf("its preview is at %q", e.Preview)
		}
		if d := h.shop("production").doc; d.Preview != "127.0.0.1:9101" || len(d.Revisions) != 2 {
			w.Errorf("wanted: %+v", d)
		}
		if e := w.untilState(r, run.Succeeded).Environments[0]; e.Preview != nil {
			w.Errorf("after the end its preview is at %q", e.Preview)
		}
		if got := placed(h, v1, v3); got != "1+1 0%, 1+1 100%" {
			w.Errorf("applied: %s", got)
		}
		way, err := w.front.WayBack(w.Context(), "default", "shop", "production", "")
		if err != nil || way.Kind != "warm" || way.To != v1 {
			w.Errorf("way back: %+v, %v", way, err)
		}
		w.pause(119 * time.Minute)
		if h.shop("production").revisions[v1] == nil {
			w.Error("the old group is gone before its time")
		}
		w.pause(2 * time.Minute)
		if h.shop("production").revisions[v1] != nil || h.shop("production").doc.Preview != "" {
			w.Error("the old group, or the preview, is still there")
		}
	})
}

const forward = `
  - name: production
    ` + target + `
    rollout: {canary: {steps: [{weight: 20, bake: 1m}]}, onFail: roll-forward}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// A release that can't go back freezes, and the fix takes its place: its users go
// to the fix and never to the release before. The way back stays the last good one.
func TestRollForward(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(forward)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(forward), "v2")
		w.hosts[0].bad[v2] = 0.3
		w.until(r, "frozen", func(s Status) bool { return s.Environments[0].Held != "" })
		w.pause(10 * time.Minute)
		if e := w.env(r); e.Weight != 20 || !e.Frozen || !strings.Contains(e.Held, "the judge failed it") {
			w.Errorf("frozen: %+v", e)
		}
		fix, v3 := w.ship(w.definition(forward), "v3")
		s := w.untilState(fix, run.Succeeded)
		if e := s.Environments[0]; e.PreviousRelease != v1 {
			w.Errorf("the fix goes back to %s", e.PreviousRelease.Short())
		}
		if s, err := w.front.Status(w.Context(), "default", r, false); err != nil || s.Environments[0].State != run.Superseded || s.Environments[0].Frozen {
			w.Errorf("the failed one is %+v, %v", s.Environments, err)
		}
		shop := w.hosts[0].shop("production")
		var lines []string
		for _, a := range shop.journal {
			if strings.Contains(a.weights, v2.Short()) {
				lines = append(lines, strings.NewReplacer(v1.Short(), "v1", v2.Short(), "v2", v3.Short(), "v3").Replace(a.weights))
			}
		}
		if got, want := strings.Join(lines, ", "), "v1=10000 v2=0, v1=8000 v2=2000, v1=8000 v2=2000 v3=0"; got != want {
			w.Errorf("applied %s, wanted %s", got, want)
		}
		if got := shop.weights(); !strings.HasSuffix(strings.Join(got, ", "), v1.Short()+"=8000 "+v3.Short()+"=2000, "+v1.Short()+"=0 "+v3.Short()+"=10000") {
			w.Errorf("applied %s", got)
		}
		way, err := w.front.WayBack(w.Context(), "default", "shop", "production", "")
		if err != nil || way.To != v1 {
			w.Errorf("way back: %+v, %v", way, err)
		}
	})
}

const workers = `
  - name: production
    target: {type: host, run: ./app, instances: 4}
    rollout: {canary: {steps: [{weight: 25, bake: 1m}]}}
    analysis: {warmUp: 0s, bin: 5s, metrics: [{name: dlq, kind: limit, query: 'dlq', max: 0}]}
`

// A worker has no address and no router: its share is its instances.
func TestWorkers(t *testing.T) {
	stories(t, func(w *world) {
		h := w.hosts[0]
		w.metrics.answer = func(string) ([]Sample, error) { return []Sample{{Series: "dlq", Value: 0}}, nil }
		v1 := w.first(workers)
		r, v2 := w.ship(w.definition(workers), "v2")
		w.untilState(r, run.Succeeded)
		if got := placed(h, v1, v2); !strings.HasPrefix(got, "4+0 0%, 3+1 25%, 0+4 100%") {
			w.Errorf("applied: %s", got)
		}
		r, v3 := w.ship(w.definition(workers), "v3")
		w.until(r, "taking work", func(s Status) bool { return s.Environments[0].Phase == rollout.Baking })
		w.metrics.answer = func(string) ([]Sample, error) { return []Sample{{Series: "dlq", Value: 7}}, nil }
		w.untilState(r, run.RolledBack)
		if got := placed(h, v2, v3); got != "4+0 0%, 3+1 25%, 4+0 0%" {
			w.Errorf("applied: %s", got)
		}
	})
}
