package simtest

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
)

// What the real store answers in the same places.
var (
	errFenced = errors.New("fenced")
	errStale  = errors.New("stale revision")
	errExists = errors.New("exists already")
)

// Tables that are leased.
const (
	tableRollouts = "rollouts"
	tablePlace    = "environments"
)

const leaseTTL = 5 * time.Second

// lease is the right to work on a row, as in package store.
type lease struct {
	table string
	row   int // of rollouts
	owner int
	epoch int64
}

// alarm is the part of a row that leases and wake-ups are about.
type alarm struct {
	wake  time.Time // zero: asleep
	owner int       // plane+1; 0: nobody
	until time.Time
	epoch int64
}

func (a *alarm) free(now time.Time) bool {
	return a.owner == 0 || !a.until.After(now) || a.until.Sub(now) > 2*time.Minute // package store: taken before the clock went back
}

// row is a rollout as it is stored. A transaction works on a copy; what is behind
// a pointer or in a slice is never changed in place.
type row struct {
	alarm
	id       int
	live     bool
	revision int64
	plan     rollout.Plan
	rel, old int // indices of releases; old -1: none
	encoded  []byte
	state    rollout.State // what encoded holds, for the checks
	events   []rollout.Event
	watch    watch

	// Kept by the test beside the product's columns.
	replayed rollout.State // after all events but the last
	truth    truth
}

// watch is what control keeps of the signals beside the state.
type watch struct {
	ticked  time.Time
	planned time.Duration
	quiet   bool // the last event may be merged with

	binElapsed, warm time.Duration
	flush            bool
	step             int
	base             map[baseKey][2]int64
	rate             *analysis.Rate
	limit            *analysis.Limit
}

type baseKey struct {
	host, boot string
	rel        int
}

// effect is a promise of a transaction, as in package store.
type effect struct {
	owner int // rollout; -1: the environment
	gen   int64
	kind  rollout.EffectKind
	doc   wire.Desired
	step  int
	ask   rollout.Ask // of a driven target
}

// place is the environment's row.
type place struct {
	alarm
	current, previous int // releases; -1: none
	retire            time.Time
	ticked            time.Time
	planned           time.Duration
}

// store is the database: what it holds was committed.
type store struct {
	rollouts   []*row
	place      place
	effects    []effect // that were not finished
	generation int64
	desired    wire.Desired
	observed   []host.Report
	quarantine map[int]bool
	leaves     int
	commits    int
	acked      int64     // highest generation that an unfenced target was read back at
	busy       time.Time // until then a call to an unfenced target may land
}

func (st *store) last() *row {
	if len(st.rollouts) == 0 {
		return nil
	}
	return st.rollouts[len(st.rollouts)-1]
}

func (st *store) live() *row {
	if r := st.last(); r != nil && r.live {
		return r
	}
	return nil
}

func (st *store) alarmOf(table string, id int) *alarm {
	if table == tablePlace {
		return &st.place.alarm
	}
	return &st.rollouts[id].alarm
}

// acquire leases a due row of table.
func (st *store) acquire(table string, owner int, now time.Time) (lease, bool) {
	try := func(a *alarm, id int) (lease, bool) {
		if a.wake.IsZero() || a.wake.After(now) || !a.free(now) {
			return lease{}, false
		}
		a.owner, a.until = owner+1, now.Add(leaseTTL)
		a.epoch++
		return lease{table: table, row: id, owner: owner, epoch: a.epoch}, true
	}
	if table == tablePlace {
		return try(&st.place.alarm, 0)
	}
	for i, r := range st.rollouts {
		if l, ok := try(&r.alarm, i); ok {
			return l, true
		}
	}
	return lease{}, false
}

// extend fails when another worker took the row.
func (st *store) extend(l lease, now time.Time) error {
	a := st.alarmOf(l.table, l.row)
	if a.owner != l.owner+1 || a.epoch != l.epoch {
		return errFenced
	}
	a.until = now.Add(leaseTTL)
	return nil
}

func (st *store) release(l lease) {
	if a := st.alarmOf(l.table, l.row); a.owner == l.owner+1 && a.epoch == l.epoch {
		a.owner, a.until = 0, time.Time{}
	}
}

// check is Tx.Check: the lease is the row's now.
func (st *store) check(l lease, now time.Time) error {
	a := st.alarmOf(l.table, l.row)
	if a.owner != l.owner+1 || a.epoch != l.epoch || !a.until.After(now) {
		return errFenced
	}
	return nil
}

func (st *store) wake(a *alarm, at time.Time) {
	if a.wake.IsZero() || a.wake.After(at) {
		a.wake = at
	}
}

// nextWake is how long nothing can be acquired.
func (st *store) nextWake(now time.Time) time.Duration {
	next := time.Duration(1 << 62)
	look := func(a *alarm) {
		if a.wake.IsZero() {
			return
		}
		at := a.wake
		if !a.free(now) && a.until.After(at) {
			at = a.until
		}
		next = min(next, max(0, at.Sub(now)))
	}
	for _, r := range st.rollouts {
		look(&r.alarm)
	}
	look(&st.place.alarm)
	return next
}

// putDesired takes only a generation above the highest, as the real one.
func (st *store) putDesired(d wire.Desired) bool {
	if d.Generation <= st.desired.Generation {
		return false
	}
	st.desired = d
	return true
}

// putObserved takes a report unless a later one of the same boot is there. It
// tells whether anything but counters changed.
func (st *store) putObserved(o wire.Observed, now time.Time) (taken, news bool) {
	i := slices.IndexFunc(st.observed, func(r host.Report) bool { return r.Host == o.Host })
	if i < 0 {
		st.observed = append(st.observed, host.Report{Observed: o, Arrived: now})
		return true, true
	}
	was := &st.observed[i]
	if was.Boot == o.Boot && was.Sequence >= o.Sequence {
		return false, false
	}
	news = was.Boot != o.Boot || shape(was.Observed, o)
	*was = host.Report{Observed: o, Arrived: now}
	return true, news
}

func shape(a, b wire.Observed) bool {
	if len(a.Services) != len(b.Services) {
		return true
	}
	for i := range a.Services {
		x, y := &a.Services[i], &b.Services[i]
		if x.Generation != y.Generation || x.Address != y.Address || x.Refused != y.Refused || len(x.Revisions) != len(y.Revisions) {
			return true
		}
		for j := range x.Revisions {
			p, q := &x.Revisions[j], &y.Revisions[j]
			if p.Release != q.Release || p.Phase != q.Phase || p.Weight != q.Weight || p.Ready != q.Ready {
				return true
			}
		}
	}
	return false
}

// insert is the unique row of one live rollout per service and environment.
func (st *store) insert(r *row) error {
	for _, x := range st.rollouts {
		if x.live {
			return errExists
		}
	}
	r.id = len(st.rollouts)
	st.rollouts = append(st.rollouts, r)
	return nil
}

func (st *store) pending(owner int) []effect {
	var out []effect
	for _, e := range st.effects {
		if e.owner == owner {
			out = append(out, e)
		}
	}
	slices.Reverse(out) // the newest first
	return out
}

// finish keeps an outcome; the first word stays.
func (st *store) finish(gen int64) bool {
	i := slices.IndexFunc(st.effects, func(e effect) bool { return e.gen == gen })
	if i < 0 {
		return false
	}
	st.effects = slices.Delete(slices.Clone(st.effects), i, i+1)
	return true
}

func encode(s rollout.State) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}
