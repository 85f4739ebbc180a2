package compattest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/server"
)

// badEnv in a release's configuration makes it answer with errors.
const badEnv = "BAD"

// host is an agent at the wire: it does what it is told, or what its tricks say,
// and claims traffic as the weights are.
type host struct {
	t     *testing.T
	url   string
	token string
	boot  string
	// trick changes what is reported of a service. nil: the truth.
	trick func(s *wire.Service, d wire.Desired)
	// quiet services have no traffic.
	quiet func(service string) bool

	answers *httptest.Server // of the services, for checks
	mu      sync.Mutex
	desired map[release.Key]wire.Desired
	counts  map[release.ID]*wire.Counters
	seq     uint64
	stop    chan struct{}
	done    sync.WaitGroup
}

const reportEvery = 100 * time.Millisecond

func (h *host) start() {
	h.desired, h.counts, h.stop = map[release.Key]wire.Desired{}, map[release.ID]*wire.Counters{}, make(chan struct{})
	if h.answers == nil {
		h.answers = answering(h.t, func(http.ResponseWriter, *http.Request) {})
	}
	h.done.Go(h.listen)
	h.done.Go(h.report)
}

func (h *host) end() {
	close(h.stop)
	h.done.Wait()
	h.answers.CloseClientConnections()
	h.answers.Close()
}

func (h *host) request(method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	return http.DefaultClient.Do(req)
}

// listen reads the stream of desired states until the server ends it.
func (h *host) listen() {
	res, err := h.request("GET", "/agent/v1/desired?after=0&protocol="+strconv.Itoa(wire.Protocol)+"&host="+server.LocalHost, nil)
	if err != nil {
		h.t.Errorf("the agent got no stream: %v", err)
		return
	}
	go func() { <-h.stop; _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var d wire.Desired
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			h.t.Errorf("the agent was sent %.200s: %v", lines.Bytes(), err)
			return
		}
		h.mu.Lock()
		if was := h.desired[d.Key]; d.Generation < was.Generation {
			h.t.Errorf("generation %d of %s came after %d", d.Generation, d.Key, was.Generation)
		}
		h.desired[d.Key] = d
		h.mu.Unlock()
	}
}

func (h *host) report() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-tick.C:
		}
		b, err := json.Marshal(h.observed())
		if err != nil {
			h.t.Error(err)
			return
		}
		res, err := h.request("POST", "/agent/v1/observed", b)
		if err != nil {
			continue // the server is being stopped
		}
		_ = res.Body.Close()
		if res.StatusCode >= 400 {
			h.t.Errorf("the agent's report was answered %s", res.Status)
			return
		}
	}
}

func (h *host) observed() wire.Observed {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	o := wire.Observed{Protocol: wire.Protocol, Agent: "compattest", Host: server.LocalHost, Boot: h.boot, Sequence: h.seq, At: time.Now().UTC()}
	for k, d := range h.desired {
		s := wire.Service{Key: k, Generation: d.Generation, Listening: true, Address: h.answers.Listener.Addr().String()}
		for _, r := range d.Revisions {
			s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: r.Release, Phase: wire.Ready, Weight: r.Weight, Ready: r.Instances})
		}
		if h.trick != nil {
			h.trick(&s, d)
		}
		for i, r := range s.Revisions {
			c := h.counts[r.Release]
			if c == nil {
				c = &wire.Counters{Latency: map[int]uint64{}}
				h.counts[r.Release] = c
			}
			if h.quiet == nil || !h.quiet(k.Service) {
				n := uint64(r.Weight) / 10 // 1000 in all
				c.Requests += n
				c.Latency[wire.LatencyIndex(10*time.Millisecond)] += n
				if j := slices.IndexFunc(d.Revisions, func(x wire.Revision) bool { return x.Release == r.Release }); j >= 0 && d.Revisions[j].Env[badEnv] != "" {
					c.Bad += n / 2
				}
			}
			if c.Requests > 0 {
				copied := *c
				copied.Latency = map[int]uint64{wire.LatencyIndex(10 * time.Millisecond): c.Requests}
				s.Revisions[i].Counters = []wire.Counters{copied}
			}
		}
		o.Services = append(o.Services, s)
	}
	slices.SortFunc(o.Services, func(a, b wire.Service) int { return bytes.Compare([]byte(a.Service), []byte(b.Service)) })
	return o
}

// tricks are how the host misbehaves while the folder is written, so that each
// service stays in the phase that it is named after.
type tricks struct {
	mu     sync.Mutex
	weight map[release.ID]int // highest that was desired of a candidate
}

func (x *tricks) apply(s *wire.Service, d wire.Desired) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, r := range d.Revisions {
		o := &s.Revisions[i]
		if !r.Candidate || r.Env["VERSION"] == "1" && s.Service != firstService {
			continue
		}
		x.weight[r.Release] = max(x.weight[r.Release], r.Weight)
		switch s.Service {
		case "preparing":
			o.Phase, o.Ready = wire.Starting, 0
		case "shifting", firstService:
			o.Weight = 0
		case "rolling-back", "stuck":
			o.Weight = x.weight[r.Release]
		case "finishing":
			if r.Weight == wire.FullWeight {
				o.Phase, o.Ready = wire.Starting, 0
			}
		}
	}
}

// hanging answers nothing, until it is closed.
func hanging(t *testing.T) *httptest.Server {
	return answering(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// port is where the services of the folder are wanted. A host that says that it
// answers at another port is not asked, so each of these tests takes a loopback
// address of its own.
const port = "18080"

// answering serves at the services' port.
func answering(t *testing.T, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	var refused error
	for range 100 {
		ip := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
		l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), port))
		if err != nil {
			refused = err
			continue
		}
		s := httptest.NewUnstartedServer(answer)
		_ = s.Listener.Close()
		s.Listener = l
		s.Start()
		return s
	}
	t.Fatalf("no loopback address has port %s free: %v", port, refused)
	return nil
}
