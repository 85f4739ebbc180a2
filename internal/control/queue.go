package control

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// One rollout at a time is live for a service in an environment. Who comes then
// waits in a queue: a rollback that a person asked for goes first, then the
// older run. The queue is no list that somebody keeps: each run says of itself
// that it waits for its turn, and looks at the others whenever it is woken. A
// run that leaves the queue, in whatever way, wakes the others.

// queued reports whether a run waits for its turn somewhere.
func queued(s run.State) bool {
	return slices.ContainsFunc(s.Environments, func(e run.Environment) bool { return e.Queued })
}

// QueueStatus is a run's place among those that wait for one environment.
type QueueStatus struct {
	Position int      `json:"position"`         // 1: the next
	Behind   string   `json:"behind,omitempty"` // run whose rollout is live there
	Before   []string `json:"before"`           // runs that go before it, the next one first
	Waits    string   `json:"waits,omitempty"`  // why Behind does not go on without a person
}

// turnOrder is a run's place in a queue: a lower one goes first.
func turnOrder(r store.Run) [2]int64 {
	n, err := strconv.ParseInt(r.ID, 10, 64)
	if err != nil {
		n = 0 // no other form of an id was ever given
	}
	if r.Kind == run.KindRollback {
		return [2]int64{0, n}
	}
	return [2]int64{1, n}
}

// ahead lists the runs that go before t into an environment, the next one first.
// A rehearsal that is between its two ways is before everybody: what runs there
// now is not meant to stay.
func (t *runTurn) ahead(key release.Key) ([]store.Run, error) {
	live := true
	rows, err := t.tx.Runs(store.RunFilter{Project: key.Project, Service: key.Service, Live: &live})
	if err != nil {
		return nil, fmt.Errorf("couldn't look who waits for %s: %w", key, err)
	}
	mine := turnOrder(t.row)
	var out []store.Run
	for _, r := range rows {
		if r.ID == t.row.ID {
			continue
		}
		s, err := run.Decode(r.State)
		if err != nil {
			continue // a newer version wrote it, which looks at the queue by itself
		}
		i := slices.IndexFunc(s.Environments, func(e run.Environment) bool { return e.Name == key.Environment })
		if i < 0 || s.Phase == run.Ended {
			continue
		}
		between := r.Kind == run.KindRehearse && (len(s.Environments[i].Legs) > 0 || s.Environments[i].Rollout != "")
		if theirs := turnOrder(r); between || s.Environments[i].Queued && slices.Compare(theirs[:], mine[:]) < 0 {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b store.Run) int {
		x, y := turnOrder(a), turnOrder(b)
		return slices.Compare(x[:], y[:])
	})
	return out, nil
}

// mayEnter reports whether it is this run's turn; otherwise it is left waiting
// in the queue, and says behind whom.
func (t *runTurn) mayEnter(e *run.Environment, key release.Key) (bool, error) {
	live, busy, err := t.tx.LiveRollout(key)
	if err != nil {
		return false, fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
	}
	if len(e.Legs) > 0 && !busy {
		return true, nil // its own other half
	}
	ahead, err := t.ahead(key)
	if err != nil {
		return false, err
	}
	if busy && len(ahead) == 0 {
		free, err := t.mayDisplace(live)
		if err != nil {
			return false, err
		}
		busy = !free
	}
	if !busy && len(ahead) == 0 {
		e.Queued = false
		return true, nil
	}
	t.wait(e, queueWords(live, busy, ahead))
	e.Queued = true
	return false, nil
}

func queueWords(live store.Rollout, busy bool, ahead []store.Run) string {
	var parts []string
	if busy {
		parts = append(parts, fmt.Sprintf("the rollout of release %s (run %s) to end; one rollout at a time is live in an environment", live.Release.Short(), live.Run))
	}
	var ids []string
	for _, r := range ahead {
		if !busy || r.ID != live.Run {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) > 0 {
		goes := "goes"
		if len(ids) > 1 {
			goes = "go"
		}
		parts = append(parts, fmt.Sprintf("run %s, which %s before it", strings.Join(ids, " and run "), goes))
	}
	return strings.Join(parts, "; and ")
}

// queueStatus is the place of a run that waits for its turn; nil if it does not.
func (t *runTurn) queueStatus(e run.Environment) (*QueueStatus, error) {
	if !e.Queued || t.state.Phase == run.Ended {
		return nil, nil
	}
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	q := &QueueStatus{Before: []string{}}
	live, busy, err := t.tx.LiveRollout(key)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
	}
	if busy {
		q.Behind = live.Run
		ro, err := t.c.turnOf(t.tx, live)
		if err != nil {
			return nil, err
		}
		switch s := ro.state; {
		case s.Held.On:
			q.Waits = "it is held: " + s.Held.Reason
		case s.Paused.On:
			q.Waits = "it is paused"
		}
	}
	ahead, err := t.ahead(key)
	if err != nil {
		return nil, err
	}
	for _, r := range ahead {
		if r.ID != q.Behind {
			q.Before = append(q.Before, r.ID)
		}
	}
	q.Position = len(q.Before) + 1
	return q, nil
}
