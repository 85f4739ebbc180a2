package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/server/servertest"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// wire is a network path that can be cut: nothing passes then and nobody is told,
// as when a switch dies. Mended, it resets what was cut.
type wire struct {
	addr string

	mu    sync.Mutex
	cut   chan struct{} // closed while nothing passes
	conns map[net.Conn]struct{}
}

func newWire(t *testing.T, network, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), cut: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close(); w.reset(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.pass(ctx, in, network, to) })
		}
	})
	return w
}

func (w *wire) pass(ctx context.Context, in net.Conn, network, to string) {
	defer in.Close()
	if !w.keep(in) {
		<-w.mended(ctx)
		return
	}
	defer w.drop(in)
	out, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, to)
	if err != nil {
		return
	}
	defer out.Close()
	w.keep(out)
	defer w.drop(out)
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			b := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(b)
				if w.isCut() {
					<-w.mended(ctx) // what was on its way is lost
					break
				}
				if n > 0 {
					if _, err := way[1].Write(b[:n]); err != nil {
						break
					}
				}
				if err != nil {
					break
				}
			}
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = in.Close(), out.Close()
	<-done
}

func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = struct{}{}
	select {
	case <-w.cut:
		return false
	default:
		return true
	}
}

func (w *wire) drop(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.cut:
		return true
	default:
		return false
	}
}

// mended is closed when bytes pass again, or the test ends.
func (w *wire) mended(ctx context.Context) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		for w.isCut() && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return out
}

func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.cut)
}

func (w *wire) mend() {
	w.mu.Lock()
	w.cut = make(chan struct{})
	w.mu.Unlock()
	w.reset()
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// healthBalancer passes connections on to a control plane that says that it is
// ready, and ends those to one that is not any more, as load balancers do that
// ask /readyz.
func healthBalancer(t *testing.T, planes ...*plane) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	var mu sync.Mutex
	ready := map[*plane]context.Context{}
	for _, p := range planes {
		wg.Go(func() {
			client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			lost := func() {}
			for ctx.Err() == nil {
				res, err := client.Get(p.URL + "/readyz")
				ok := err == nil && res.StatusCode == http.StatusOK
				if err == nil {
					_ = res.Body.Close()
				}
				mu.Lock()
				switch {
				case ok && ready[p] == nil:
					ready[p], lost = context.WithCancel(ctx)
				case !ok && ready[p] != nil:
					delete(ready, p)
					lost()
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
			lost()
		})
	}
	pass := func(in net.Conn) {
		defer in.Close()
		for _, p := range planes {
			mu.Lock()
			alive := ready[p]
			mu.Unlock()
			if alive == nil {
				continue
			}
			out, err := net.DialTimeout("tcp", strings.TrimPrefix(p.URL, "http://"), time.Second)
			if err != nil {
				continue
			}
			defer context.AfterFunc(alive, func() { _, _ = in.Close(), out.Close() })()
			defer out.Close()
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			_, _ = io.Copy(in, out)
			return
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { pass(c) })
		}
	})
	return "http://" + l.Addr().String()
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
	var wires []*wire
	for i := range 3 {
		w := newWire(t, "unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
		through := *u
		through.Host, through.RawQuery = w.addr, "sslmode=disable"
		wires = append(wires, w)
		p := planeAt(t, filepath.Join(t.TempDir(), "data"), "--no-agent", "--database", through.String())
		if i > 0 {
			share(t, planes[0].dir, p.dir)
		}
		p.up()
		planes = append(planes, p)
	}
	s := newShop(t)
	h := newHost(t, planes[0], healthBalancer(t, planes...), "local", "127.0.0.1")
	s.first(planes[0])
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()

	faults := []struct {
		name  string
		hit   func(p *plane, w *wire)
		after func(p *plane, w *wire)
	}{
		{"cut off from the database", func(p *plane, w *wire) {
			w.sever()
			client := http.Client{Timeout: time.Second}
			until(t, 10*time.Second, "the one that is cut off does not say that it is ready", func() bool {
				res, err := client.Get(p.URL + "/readyz")
				if err == nil {
					_ = res.Body.Close()
				}
				return err != nil || res.StatusCode != http.StatusOK
			})
		}, func(_ *plane, w *wire) { w.mend() }},
		{"paused", func(p *plane, _ *wire) { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }, func(p *plane, _ *wire) { _ = p.cmd.Process.Signal(syscall.SIGCONT) }},
		{"killed", func(p *plane, _ *wire) { p.kill() }, func(p *plane, _ *wire) { p.up() }},
	}
	for i, f := range faults {
		for _, bad := range []float64{0, 80} {
			name := fmt.Sprintf("%s, %g %% bad", f.name, bad)
			t.Run(name, func(t *testing.T) {
				before := load.Counts()
				victim, asked := planes[i], planes[(i+1)%3]
				s.rollout = oneStep
				s.ship(behaviour{Version: name, Bad: bad})
				run := asked.Run(s.Dir)
				asked.Wait(run, "exposed", func(s control.Status) bool { return production(s).Weight > 0 })
				f.hit(victim, wires[i])
				want := map[bool]string{true: "rolled-back", false: "succeeded"}[bad > 0]
				end := asked.WaitState(run, want)
				f.after(victim, wires[i])
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
				if got := load.Counts(); got.Dropped > before.Dropped || bad == 0 && got.Bad > before.Bad {
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
