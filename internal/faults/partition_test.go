package faults

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// cable is a network path that can be cut: nothing passes then and nobody is told,
// as when a switch dies. Mended, it resets what was cut.
type cable struct {
	addr string

	mu    sync.Mutex
	whole chan struct{} // closed while bytes pass
	conns map[net.Conn]struct{}
}

func newCable(t *testing.T, network, to string) *cable {
	t.Helper()
	k := &cable{whole: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(k.whole)
	k.addr = relay(t, func(ctx context.Context, in net.Conn) { k.pass(ctx, in, network, to) })
	return k
}

func (k *cable) pass(ctx context.Context, in net.Conn, network, to string) {
	defer k.keep(in)()
	if k.isCut() {
		k.awaitMended(ctx)
		return
	}
	out, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, to)
	if err != nil {
		return
	}
	defer k.keep(out)()
	defer context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })()
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		ways.Go(func() {
			defer func() { _, _ = in.Close(), out.Close() }()
			b := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(b)
				if k.isCut() {
					k.awaitMended(ctx) // what was on its way is lost
					return
				}
				if n > 0 {
					if _, err := way[1].Write(b[:n]); err != nil {
						return
					}
				}
				if err != nil {
					return
				}
			}
		})
	}
	ways.Wait()
}

// keep has a connection reset when the cable is mended, until drop is called.
func (k *cable) keep(c net.Conn) (drop func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[c] = struct{}{}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.conns, c)
	}
}

func (k *cable) isCut() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.whole:
		return false
	default:
		return true
	}
}

func (k *cable) awaitMended(ctx context.Context) {
	k.mu.Lock()
	whole := k.whole
	k.mu.Unlock()
	select {
	case <-whole:
	case <-ctx.Done():
	}
}

func (k *cable) sever() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.whole = make(chan struct{})
}

func (k *cable) mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.whole)
	for c := range k.conns {
		_ = c.Close()
	}
}

// Three control planes on one PostgreSQL under load. One is cut off from the
// database, one is stopped for longer than its lease, one is killed: whoever is
// left takes good releases to the end and bad ones back, and whoever comes back
// late changes nothing.
func TestThreeControlPlanesPartitioned(t *testing.T) {
	t.Parallel()
	database := storetest.Postgres(t)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	var planes []*plane
	var cables []*cable
	for i := range 3 {
		k := newCable(t, "unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
		through := *u
		through.Host, through.RawQuery = k.addr, "sslmode=disable"
		cables = append(cables, k)
		p := planeAt(t, filepath.Join(t.TempDir(), "data"), "--no-agent", "--database", through.String())
		if i > 0 {
			share(t, planes[0].dir, p.dir)
		}
		p.up()
		planes = append(planes, p)
	}
	s := newShop(t)
	h := newHost(t, planes[0], balancer(t, planes...), "local", "127.0.0.1")
	s.first(planes[0])
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()

	faults := []struct {
		name  string
		hit   func(p *plane, k *cable)
		after func(p *plane, k *cable)
	}{
		{"cut off from the database", func(p *plane, k *cable) {
			k.sever()
			machinetest.Until(t, "the one that is cut off does not say that it is ready", func() bool { return !p.ready() })
		}, func(_ *plane, k *cable) { k.mend() }},
		{"paused", func(p *plane, _ *cable) { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }, func(p *plane, _ *cable) { _ = p.cmd.Process.Signal(syscall.SIGCONT) }},
		{"killed", func(p *plane, _ *cable) { p.kill() }, func(p *plane, _ *cable) { p.up() }},
	}
	for i, f := range faults {
		for _, bad := range []float64{0, 80} {
			name := fmt.Sprintf("%s, %g %% bad", f.name, bad)
			t.Run(name, func(t *testing.T) {
				before := load.Settled()
				victim, asked := planes[i], planes[(i+1)%3]
				s.rollout = oneStep
				s.ship(behaviour{Version: name, Bad: bad})
				run := asked.Run(s.Dir)
				asked.Wait(run, "exposed", func(s control.Status) bool { return production(s).Weight > 0 })
				f.hit(victim, cables[i])
				want := map[bool]string{true: "rolled-back", false: "succeeded"}[bad > 0]
				end := asked.WaitState(run, want)
				f.after(victim, cables[i])
				if e := production(end); bad > 0 && (e.Weight != 0 || e.Verdict != "fail") {
					t.Errorf("rolled back at %g %% with the verdict %q", e.Weight, e.Verdict)
				}
				// What came back says the same as the others, and did no harm.
				if e := production(victim.WaitState(run, want)); e.Weight != production(end).Weight {
					t.Errorf("the one that came back says %g %%", e.Weight)
				}
				if w := h.weightsAsked(production(end).Release); bad > 0 && w[len(w)-1] != 0 {
					t.Errorf("the host was asked for the weights %v", w)
				}
				if got := load.Settled(); got.Dropped > before.Dropped || bad == 0 && got.Bad > before.Bad {
					t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All-before.All, got.Dropped-before.Dropped, got.Bad-before.Bad, got.Errors)
				}
			})
		}
	}
	load.Stop()
	appliedOnce(t, h.dir)
	if rep, err := evidence.Verify(bytes.NewReader(planes[1].Bundle()), evidence.VerifyOptions{}); err != nil || !rep.OK {
		t.Errorf("the evidence does not verify: %+v, %v", rep, err)
	}
}
