package supervise

import (
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// crashLoop is how many exits within StartIn make a group failed.
const crashLoop = 5

// Group is the processes of one release of one service in one environment.
type Group struct {
	sup     *Supervisor
	key     release.Key
	release release.ID

	mu     sync.Mutex
	spec   Spec
	slots  []*slot // by index; the last ones stop first
	last   []*slot // stopping
	exits  []time.Time
	failed string
	note   string
}

// Status is where a group stands.
type Status struct {
	Want      int
	Ready     int
	Failed    string // why the start failed, until all are ready
	Note      string // what last went wrong
	Instances []Instance
}

// Group starts n processes of spec, or takes up those of an earlier agent.
func (s *Supervisor) Group(spec Spec, n int) *Group {
	spec.Health = withDefaults(spec.Health)
	g := &Group{sup: s, key: spec.Key, release: spec.Release, spec: spec}
	g.Scale(n)
	return g
}

// Update changes what the next start of each process uses, and how all are asked
// whether they are well.
func (g *Group) Update(spec Spec) {
	spec.Health = withDefaults(spec.Health)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spec = spec
}

// Scale changes the number of processes. Surplus ones drain first; it does not
// wait for them.
func (g *Group) Scale(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.slots) > n {
		sl := g.slots[len(g.slots)-1]
		g.slots = g.slots[:len(g.slots)-1]
		g.last = append(g.last, sl)
		close(sl.stop)
	}
	for len(g.slots) < n {
		sl := &slot{group: g, index: g.freeIndex(), stop: make(chan struct{}), gone: make(chan struct{})}
		sl.status.ID = fmt.Sprintf("%s-%d", g.release.Short(), sl.index)
		g.slots = append(g.slots, sl)
		sl.takeUp()
		g.sup.wait.Go(sl.run)
	}
}

// Lacks says which secret a start would lack now, where an instance runs on that an
// earlier agent gave it; empty where all can be started anew.
func (g *Group) Lacks() string {
	g.mu.Lock()
	slots, secrets := append([]*slot(nil), g.slots...), g.spec.Secrets
	g.mu.Unlock()
	for _, sl := range slots {
		sl.mu.Lock()
		adopted := sl.unknown && sl.status.PID != 0
		sl.mu.Unlock()
		if !adopted {
			continue
		}
		if _, err := g.sup.resolve(secrets); err != nil {
			return err.Error()
		}
		return ""
	}
	return ""
}

// Want returns how many processes there shall be.
func (g *Group) Want() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.slots)
}

// freeIndex is the lowest that no slot has, also none that is stopping.
func (g *Group) freeIndex() int {
	used := make(map[int]bool)
	for _, sl := range g.slots {
		used[sl.index] = true
	}
	for _, sl := range g.last {
		select {
		case <-sl.gone:
		default:
			used[sl.index] = true
		}
	}
	for i := 0; ; i++ {
		if !used[i] {
			return i
		}
	}
}

// Stop drains and ends all processes and returns when they are gone, or when the
// supervisor was closed.
func (g *Group) Stop() {
	g.Scale(0)
	g.mu.Lock()
	last := g.last
	g.mu.Unlock()
	for _, sl := range last {
		<-sl.gone
	}
}

// Status returns where the group stands.
func (g *Group) Status() Status {
	g.mu.Lock()
	st := Status{Want: len(g.slots), Failed: g.failed, Note: g.note}
	slots := append([]*slot(nil), g.slots...)
	var last []*slot
	for _, sl := range g.last {
		select {
		case <-sl.gone:
		default:
			last = append(last, sl)
		}
	}
	g.last = last
	n := len(slots)
	slots = append(slots, last...)
	g.mu.Unlock()
	for k, sl := range slots {
		i := sl.snapshot()
		if i.Ready && k < n { // those that stop serve on, and count no more
			st.Ready++
		}
		st.Instances = append(st.Instances, i)
	}
	return st
}

// Ready returns the instances that are ready, without their logs.
func (g *Group) Ready() []Instance {
	g.mu.Lock()
	slots := append([]*slot(nil), g.slots...)
	g.mu.Unlock()
	var out []Instance
	for _, sl := range slots {
		sl.mu.Lock()
		i := sl.status
		sl.mu.Unlock()
		if i.Ready {
			out = append(out, i)
		}
	}
	return out
}

func (g *Group) current() Spec {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.spec
}

// exited notes an exit, or a start that was not possible.
func (g *Group) exited(at time.Time, id, how string, tail string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	within := g.spec.Health.StartIn
	keep := g.exits[:0]
	for _, t := range g.exits {
		if at.Sub(t) < within {
			keep = append(keep, t)
		}
	}
	g.exits = append(keep, at)
	if len(g.exits) > 1000 {
		g.exits = g.exits[len(g.exits)-1000:]
	}
	g.note = fmt.Sprintf("instance %s %s", id, how)
	if len(g.exits) >= crashLoop {
		g.failed = fmt.Sprintf("crash loop: %d exits within %s, the last: instance %s %s%s", len(g.exits), within, id, how, quoted(tail))
	}
}

// unwell notes that an instance was not ready in time.
func (g *Group) unwell(id, why, tail string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note = fmt.Sprintf("instance %s %s", id, why)
	g.failed = g.note + quoted(tail)
}

func quoted(tail string) string {
	if tail == "" {
		return "; its log is empty"
	}
	if len(tail) > 500 {
		tail = "…" + tail[len(tail)-500:]
	}
	return fmt.Sprintf("; its last log lines:\n%s", tail)
}

// becameReady clears a failure when all instances are ready.
func (g *Group) becameReady() {
	g.mu.Lock()
	slots := append([]*slot(nil), g.slots...)
	g.mu.Unlock()
	for _, sl := range slots {
		if !sl.isReady() {
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed, g.note = "", ""
}
