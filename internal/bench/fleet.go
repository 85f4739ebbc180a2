package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
)

const (
	fleetHosts = 20
	fleetRate  = 10 // requests per second of a baking service
)

// fleet puts ten thousand live rollouts into one control plane, a thousand of them
// baking under traffic and the others paused before anybody is exposed, on twenty
// hosts that report each second. One rollout of each kind is made the usual way;
// the others are copies of its rows. Hosts are played at the wire.
func fleet(s *suite) error {
	live, baking := s.times(10_000, 200), s.times(1000, 20)
	p, err := s.plane()
	if err != nil {
		return err
	}
	p.args = []string{"--no-agent"}
	defer p.down()
	if _, err := p.up(); err != nil {
		return err
	}
	hosts, stop := startHosts(s.ctx, p)
	rows, err := p.templates(s, hosts)
	stop()
	if err != nil {
		return err
	}
	p.kill()
	if err := copies(s.ctx, filepath.Join(p.dir, "sluice.db"), rows, live, baking); err != nil {
		return err
	}
	if _, err := p.up(); err != nil {
		return err
	}
	_, stop = startHosts(s.ctx, p)
	defer stop()
	pid := p.cmd.Process.Pid
	began := time.Now()
	before, err := p.settled(s)
	if err != nil {
		return err
	}
	calm := time.Since(began)
	cpu, window := cpuOf(pid), time.Duration(s.times(60, 5))*time.Second
	time.Sleep(window)
	cpu = cpuOf(pid) - cpu
	after, err := p.lateness()
	if err != nil {
		return err
	}
	var st []control.Status
	if err := p.call("GET", "runs?limit=1", nil, &st); err != nil {
		s.say("runs: %v", err)
	}
	late, n := after.quantile(before, 0.99)
	kb, _ := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
	what := fmt.Sprintf("%d live rollouts, %d of them baking", live, baking)
	s.report.budget(what+": memory at most", "< 1 GiB", fmt.Sprintf("%.0f MB", float64(kb)*1024/1e6), kb < 1<<20)
	s.report.budget(what+": wake-up lateness", "p99 < 1 s", fmt.Sprintf("p99 ≤ %g s of %d wake-ups in %s", late, n, window), n > 0 && late <= 1)
	s.report.other(what+": from the start until no wake-up was late", fmt.Sprintf("%.0f s", calm.Seconds()))
	s.report.other(what+": processor", fmt.Sprintf("%.0f %% of a core", 100*float64(cpu)/float64(window)))
	return nil
}

// settled waits until the burst is over that a start is, as all rollouts were due
// then: until ten seconds went by in which no wake-up was a second late.
func (p *plane) settled(s *suite) (buckets, error) {
	calm, deadline := time.Duration(s.times(10, 1))*time.Second, time.Now().Add(5*time.Minute)
	var before buckets // nothing was woken yet
	for {
		time.Sleep(calm)
		after, err := p.lateness()
		if err != nil {
			return nil, err
		}
		if worst, n := after.quantile(before, 1); n > 0 && worst <= 1 {
			return after, nil
		}
		if before = after; time.Now().After(deadline) {
			return nil, errors.New("wake-ups are late still five minutes after the start")
		}
	}
}

// lateness is how late rollouts were woken since the start.
func (p *plane) lateness() (buckets, error) {
	return p.histogram("sluice_wakeup_lateness_seconds", "rollouts")
}

// templates makes one rollout that bakes and one that is paused while it prepares.
func (p *plane) templates(s *suite, h *fleetOf) ([2]store.Rollout, error) {
	var out [2]store.Rollout
	r, err := s.repository()
	if err != nil {
		return out, err
	}
	for i, name := range []string{"bakes", "waits"} {
		commit := func(answer string) (string, error) {
			if err := r.commit(name, ":9000", answer, "6h"); err != nil {
				return "", err
			}
			file := filepath.Join(r.dir, name, "sluice.yaml")
			b, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			text := strings.Replace(string(b), "type: host\n", "type: host\n      hosts: [h0]\n", 1)
			text = strings.Replace(text, "analysis: {warmUp: 0s, bin: 1s, maxExcess: 5, minEvents: 5, ", "analysis: {", 1)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				return "", err
			}
			if err := r.git("commit", "-q", "-a", "-m", answer); err != nil {
				return "", err
			}
			return p.start(r.dir, name+"/sluice.yaml")
		}
		id, err := commit("200")
		if err != nil {
			return out, err
		}
		if _, err := p.released(id); err != nil {
			return out, err
		}
		h.unready(name == "waits")
		want := rollout.Baking
		if name == "waits" {
			want = rollout.Preparing
		}
		if id, err = commit("204"); err != nil {
			return out, err
		}
		st, err := p.wait(id, func(st control.Status) bool { return len(st.Environments) == 1 && st.Environments[0].Phase == want })
		if err != nil {
			return out, err
		}
		if name == "waits" {
			if err := p.call("POST", "runs/"+id+"/environments/production/commands", map[string]any{"command": "pause", "reason": "a template"}, nil); err != nil {
				return out, err
			}
		}
		out[i].ID = st.Environments[0].Rollout
	}
	return out, nil
}

// copies clones the templates' rows.
func copies(ctx context.Context, file string, templates [2]store.Rollout, live, baking int) error {
	db, err := store.Open(ctx, "sqlite:"+file, store.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(ctx, func(tx *store.Tx) error {
		for i := range live {
			of := templates[1].ID
			if i < baking {
				of = templates[0].ID
			}
			row, err := tx.Rollout(release.DefaultProject, of)
			if err != nil {
				return err
			}
			key := release.Key{Project: row.Project, Service: row.Service, Environment: row.Environment}
			want, ok, err := tx.Desired(key)
			if err != nil || !ok {
				return fmt.Errorf("couldn't read the desired state of %s: %w", key, err)
			}
			host := fmt.Sprintf("h%d", i%fleetHosts)
			key.Service = fmt.Sprintf("s%05d", i)
			row.Service, row.Work = key.Service, store.Work{}
			at := tx.Now().Add(time.Duration(i%10_000) * time.Millisecond)
			row.WakeAt = &at
			row.Plan = bytes.ReplaceAll(row.Plan, []byte(`"h0"`), []byte(`"`+host+`"`))
			if err := tx.InsertRollout(&row); err != nil {
				return err
			}
			var doc wire.Desired
			if err := json.Unmarshal(want.Document, &doc); err != nil {
				return err
			}
			doc.Key, doc.Hosts = key, []string{host}
			b, err := json.Marshal(doc)
			if err != nil {
				return err
			}
			if _, err := tx.PutDesired(key, want.Generation, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// fleetOf are hosts at the wire: they take desired states and report that all is
// as wanted, with traffic where a candidate has weight.
type fleetOf struct {
	p *plane

	mu        sync.Mutex
	notReady  bool // candidates of new documents never become ready
	services  map[string]map[release.Key]*wire.Service
	sequences map[string]uint64
}

func startHosts(ctx context.Context, p *plane) (*fleetOf, func()) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleetOf{p: p, services: map[string]map[release.Key]*wire.Service{}, sequences: map[string]uint64{}}
	var wg sync.WaitGroup
	for i := range fleetHosts {
		host := fmt.Sprintf("h%d", i)
		f.services[host] = map[release.Key]*wire.Service{}
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f.follow(ctx, host); err != nil && ctx.Err() == nil {
					p.s.say("host %s: %v", host, err)
					time.Sleep(time.Second)
				}
			}
		})
		wg.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				if err := f.tell(ctx, host); err != nil && ctx.Err() == nil {
					p.s.say("host %s: %v", host, err)
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	return f, func() { cancel(); wg.Wait() }
}

func (f *fleetOf) unready(yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notReady = yes
}

func (f *fleetOf) request(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.p.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+f.p.token)
	res, err := client.Do(req)
	if err == nil && res.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		_ = res.Body.Close()
		err = fmt.Errorf("%s was answered %s: %s", path, res.Status, b)
	}
	return res, err
}

func (f *fleetOf) follow(ctx context.Context, host string) error {
	res, err := f.request(ctx, "GET", fmt.Sprintf("/agent/v1/desired?host=%s&after=0&protocol=%d", host, wire.Protocol), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for dec := json.NewDecoder(res.Body); ; {
		var d wire.Desired
		if err := dec.Decode(&d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		f.apply(ctx, host, d)
	}
}

func (f *fleetOf) apply(ctx context.Context, host string, d wire.Desired) {
	f.mu.Lock()
	s := &wire.Service{Key: d.Key, Generation: d.Generation, Listening: true, Address: "127.0.0.1:9000", Revisions: []wire.RevisionObserved{}}
	was := f.services[host][d.Key]
	for _, r := range d.Revisions {
		o := wire.RevisionObserved{Release: r.Release, Phase: wire.Ready, Weight: r.Weight, Ready: r.Instances, Instances: []wire.Instance{{ID: "1", PID: 1, Port: 9001, Ready: true}}, Counters: []wire.Counters{}}
		if r.Candidate && (f.notReady || strings.HasPrefix(d.Service, "s") && r.Weight == 0) {
			o.Phase, o.Ready = wire.Starting, 0
		}
		if was != nil {
			if i := slices.IndexFunc(was.Revisions, func(x wire.RevisionObserved) bool { return x.Release == r.Release }); i >= 0 {
				o.Counters = was.Revisions[i].Counters
			}
		}
		s.Revisions = append(s.Revisions, o)
	}
	f.services[host][d.Key] = s
	first := was == nil
	f.mu.Unlock()
	if !first || d.Service == "bakes" || d.Service == "waits" {
		_ = f.tell(ctx, host) // what changed is told at once
	}
}

// tell lets a second's traffic pass and reports.
func (f *fleetOf) tell(ctx context.Context, host string) error {
	f.mu.Lock()
	f.sequences[host]++
	o := wire.Observed{Protocol: wire.Protocol, Agent: "bench", Host: host, Boot: fmt.Sprint("boot-", f.p.cmd.Process.Pid), Sequence: f.sequences[host], At: time.Now(), Services: []wire.Service{}}
	for _, s := range f.services[host] {
		shared := len(s.Revisions) == 2 && s.Revisions[0].Weight > 0 && s.Revisions[1].Weight > 0
		for i := range s.Revisions {
			if r := &s.Revisions[i]; shared {
				r.Counters = count(r.Counters, fleetRate*r.Weight/wire.FullWeight, o.Sequence)
			}
		}
		o.Services = append(o.Services, *s)
	}
	b, err := json.Marshal(o)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	res, err := f.request(ctx, "POST", "/agent/v1/observed", bytes.NewReader(b))
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func count(was []wire.Counters, n int, seed uint64) []wire.Counters {
	if len(was) == 0 {
		for b := range wire.Buckets {
			was = append(was, wire.Counters{Bucket: b, Latency: map[int]uint64{}})
		}
	}
	for i := range n {
		c := &was[(uint64(i)+seed*7)%wire.Buckets]
		c.Requests++
		c.Latency[wire.LatencyIndex(time.Duration(3+i%20)*time.Millisecond)]++
	}
	return was
}

// buckets are a histogram's cumulative counts by upper edge.
type buckets map[float64]uint64

func (p *plane) histogram(name, table string) (buckets, error) {
	req, err := http.NewRequestWithContext(p.s.ctx, "GET", p.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the server's metrics: %w", err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the server's metrics: %w", err)
	}
	out := buckets{}
	for _, m := range families[name].GetMetric() {
		if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == table }) {
			continue
		}
		for _, b := range m.GetHistogram().GetBucket() {
			out[b.GetUpperBound()] = b.GetCumulativeCount()
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the server's metrics have no %s of %s", name, table)
	}
	return out, nil
}

// quantile is the upper edge of the bucket that q falls in, of what came since
// before, and how many that are.
func (b buckets) quantile(before buckets, q float64) (float64, uint64) {
	var edges []float64
	var all uint64
	for e, n := range b {
		edges = append(edges, e)
		all = max(all, n-before[e])
	}
	slices.Sort(edges)
	for _, e := range edges {
		if float64(b[e]-before[e]) >= q*float64(all) {
			return e, all
		}
	}
	return edges[len(edges)-1], all
}
