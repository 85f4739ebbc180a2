package host

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

var (
	key    = release.Key{Project: "default", Service: "shop", Environment: "production"}
	v1, v2 = release.DigestOf([]byte("v1")), release.DigestOf([]byte("v2"))
	now    = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
)

// A generation that is not the highest changes nothing, whoever brings it; the
// same again is no harm.
func TestApply(t *testing.T) {
	for name, url := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "sluice.db") },
		"postgres": func(t *testing.T) string { return storetest.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(t.Context(), url(t), store.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			topics, stop := s.Subscribe()
			defer stop()
			target := New(s)
			doc := func(gen int64, weight int) wire.Desired {
				d := Document(key, pipeline.Target{Hosts: []string{"local"}, Listen: ":80", Sticky: &pipeline.Sticky{Cookie: "u"}}, gen)
				d.Revisions = append(d.Revisions, wire.Revision{Release: v1, Weight: weight})
				return d
			}
			for _, c := range []struct {
				gen     int64
				weight  int
				applied bool
				want    int
			}{{5, 10, true, 10}, {7, 0, true, 0}, {5, 10, false, 0}, {6, 50, false, 0}, {7, 0, true, 0}, {8, 100, true, 100}} {
				got, err := target.Apply(t.Context(), doc(c.gen, c.weight))
				if err != nil || got != c.applied {
					t.Errorf("generation %d: %t, %v", c.gen, got, err)
				}
				err = s.View(t.Context(), func(tx *store.Tx) error {
					row, _, err := tx.Desired(key)
					if err != nil {
						return err
					}
					var d wire.Desired
					if err := json.Unmarshal(row.Document, &d); err != nil {
						return err
					}
					if d.Revisions[0].Weight != c.want || d.Sticky.Cookie != "u" || d.Listen != ":80" || d.Hosts[0] != "local" {
						t.Errorf("after generation %d: %+v", c.gen, d)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			select {
			case topic := <-topics:
				if topic != store.TopicDesired {
					t.Errorf("notified %q", topic)
				}
			case <-time.After(5 * time.Second):
				t.Error("agents were not told")
			}
		})
	}
}

func report(host string, age time.Duration, gen int64, revisions ...wire.RevisionObserved) Report {
	return Report{Arrived: now.Add(-age), Observed: wire.Observed{Host: host, Boot: "b", Services: []wire.Service{{Key: key, Generation: gen, Listening: true, Address: host + ":80", Revisions: revisions}}}}
}

func rev(id release.ID, phase wire.Phase, weight int) wire.RevisionObserved {
	return wire.RevisionObserved{Release: id, Phase: phase, Weight: weight, Reason: "why"}
}

func TestObserve(t *testing.T) {
	hosts := []string{"a", "b"}
	good := func(h string) Report { return report(h, 0, 9, rev(v1, wire.Ready, 9000), rev(v2, wire.Ready, 1000)) }

	o := Observe([]Report{good("a"), good("b")}, key, hosts, v2, v1, now)
	if o.Hosts != 2 || o.Missing != 0 || o.Generation != 9 || !o.CandidateReady || !o.OldReady || o.MinWeight != 1000 || o.MaxWeight != 1000 || o.Failed != "" {
		t.Errorf("%+v", o)
	}
	// The step is done only when every host says so.
	o = Observe([]Report{good("a"), report("b", 0, 8, rev(v1, wire.Ready, 10000), rev(v2, wire.Starting, 0))}, key, hosts, v2, v1, now)
	if o.Generation != 8 || o.CandidateReady || !o.OldReady || o.MinWeight != 0 || o.MaxWeight != 1000 {
		t.Errorf("one behind: %+v", o)
	}
	o = Observe([]Report{good("a"), report("b", 0, 9, rev(v1, wire.Ready, 9000), rev(v2, wire.Failed, 0))}, key, hosts, v2, v1, now)
	if o.Failed != "on host b: why" {
		t.Errorf("failed: %+v", o)
	}
	for _, age := range []time.Duration{Unreachable + 1, -Unreachable - 1} {
		old := good("b")
		old.Arrived = now.Add(-age)
		o = Observe([]Report{good("a"), old}, key, hosts, v2, v1, now)
		if o.Hosts != 1 || o.Missing != 1 || o.Unreachable != "b" {
			t.Errorf("a report of %s ago: %+v", age, o)
		}
	}
	// Alive, but it runs nothing yet.
	o = Observe([]Report{{Arrived: now, Observed: wire.Observed{Host: "a"}}}, key, []string{"a"}, v2, v1, now)
	if o.Hosts != 1 || o.Missing != 0 || o.Generation != 0 || o.CandidateReady || o.OldReady || o.OldSeen {
		t.Errorf("%+v", o)
	}
	// Strangers, other services and nobody at all.
	o = Observe([]Report{good("stranger")}, key, hosts, v2, v1, now)
	if o.Hosts != 0 || o.Missing != 2 || o.CandidateReady || o.OldReady || o.MaxWeight != 0 {
		t.Errorf("%+v", o)
	}
	o = Observe(nil, key, hosts, v2, "", now)
	if !o.OldReady || o.OldSeen {
		t.Errorf("without an old release: %+v", o)
	}
	taken := report("a", 0, 9)
	taken.Services[0].Listening, taken.Services[0].Reason = false, "port 80 is taken"
	if o = Observe([]Report{taken}, key, []string{"a"}, v2, v1, now); o.Failed != "on host a: port 80 is taken" {
		t.Errorf("%+v", o)
	}
}

// Whatever hosts say, the sum is one that a rollout takes, and nothing is ready
// that a wanted host did not call ready.
func TestObserveProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var reports []Report
		for range rapid.IntRange(0, 5).Draw(t, "reports") {
			r := report(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "host"), time.Duration(rapid.IntRange(-20, 20).Draw(t, "age"))*time.Second, rapid.Int64Range(0, 9).Draw(t, "generation"))
			for _, id := range []release.ID{v1, v2} {
				if rapid.Bool().Draw(t, "runs") {
					r.Services[0].Revisions = append(r.Services[0].Revisions, rev(id, rapid.SampledFrom([]wire.Phase{wire.Pulling, wire.Starting, wire.Ready, wire.Failed, wire.Stopping}).Draw(t, "phase"), rapid.IntRange(-5, 10010).Draw(t, "weight")))
				}
			}
			reports = append(reports, r)
		}
		o := Observe(reports, key, []string{"a", "b"}, v2, v1, now)
		if o.Hosts+o.Missing != 2 || o.MinWeight > o.MaxWeight || o.MinWeight < 0 || o.MaxWeight > wire.FullWeight || o.Generation < 0 || o.CandidateReady && !o.CandidateSeen || o.OldReady && !o.OldSeen {
			t.Fatalf("%+v of %+v", o, reports)
		}
	})
}

func TestCounters(t *testing.T) {
	r := report("a", time.Hour, 1, rev(v1, wire.Ready, 0))
	r.Services[0].Revisions[0].Counters = []wire.Counters{
		{Bucket: 3, Requests: 10, Bad: 2, Latency: map[int]uint64{4: 10}}, {Bucket: -1, Requests: 99}, {Bucket: 16, Requests: 99},
	}
	got := Counters([]Report{r, report("stranger", 0, 1, rev(v1, wire.Ready, 0))}, key, []string{"a"})
	if len(got) != 1 || got[0].Buckets[3].Requests != 10 || got[0].Buckets[3].Bad != 2 || got[0].Buckets[3].Latency[4] != 10 || got[0].Host != "a" || got[0].Release != v1 {
		t.Errorf("%+v", got)
	}
	all := int64(0)
	for _, b := range got[0].Buckets {
		all += b.Requests
	}
	if all != 10 {
		t.Errorf("buckets that do not exist were counted: %d", all)
	}
	if a := Addresses([]Report{r, report("b", 0, 1)}, key, pipeline.Target{Hosts: []string{"b", "a", "c"}}); len(a) != 2 || a[0] != "b:80" || a[1] != "a:80" {
		t.Errorf("%v", a)
	}
	// Requests of our own are counted where they are asked for, and only there.
	r.Services[0].Revisions[0].Synthetic = []wire.Counters{{Bucket: 3, Requests: 7, Bad: 1, Latency: map[int]uint64{4: 5, 6: 2}}, {Bucket: 4, Requests: 1}}
	if users := Counters([]Report{r}, key, []string{"a"}); users[0].Buckets[3].Requests != 10 || users[0].Buckets[4].Requests != 0 {
		t.Errorf("%+v", users[0].Buckets[3])
	}
	if b := AllCounters([]Report{r}, key, []string{"a"})[0].Buckets; b[3].Requests != 17 || b[3].Bad != 3 || b[3].Latency[4] != 15 || b[3].Latency[6] != 2 || b[4].Requests != 1 {
		t.Errorf("%+v", b[3])
	}
	if n := r.Services[0].Revisions[0].Counters[0].Latency[4]; n != 10 {
		t.Errorf("a report was changed: %d", n)
	}
	r.Services[0].Preview = "a:81"
	if p := Previews([]Report{r, report("b", 0, 1)}, key, pipeline.Target{Hosts: []string{"b", "a"}}); len(p) != 1 || p[0] != "a:81" {
		t.Errorf("%v", p)
	}
	rows := []store.Observed{{Host: "a", At: now, Report: []byte(`{"host":"a"}`)}, {Host: "b", Report: []byte(`{`)}}
	if d := Decode(rows); len(d) != 1 || d[0].Host != "a" || !d[0].Arrived.Equal(now) {
		t.Errorf("%+v", d)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"host":"a","services":[{"project":"default","service":"shop","environment":"production","revisions":[{"counters":[{"bucket":99}]}]}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		d := Decode([]store.Observed{{Host: "a", At: now, Report: b}})
		Observe(d, key, []string{"a"}, v2, v1, now)
		Counters(d, key, []string{"a"})
		Addresses(d, key, pipeline.Target{Hosts: []string{"a"}})
	})
}
