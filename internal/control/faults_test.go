package control

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/store"
)

var errCrash = errors.New("the process has died here")

// brittle is a store that a process uses until it dies, at a chosen commit.
type brittle struct {
	storage
	commits atomic.Int64
	dieAt   int  // number of the commit, or of the next that goes well; 0: never
	after   bool // it is on disk, but the process dies before it hears of it
	effects int  // so many were begun; counted by dieAtEffect
	effect  int  // number of the one to die at
	dead    atomic.Bool
	paused  atomic.Bool // keeps no lease alive
	each    func(commit int)
}

func (b *brittle) View(ctx context.Context, f func(*store.Tx) error) error {
	if b.dead.Load() {
		return errCrash
	}
	return b.storage.View(ctx, f)
}

func (b *brittle) Update(ctx context.Context, f func(*store.Tx) error) error {
	if b.dead.Load() {
		return errCrash
	}
	n := int(b.commits.Add(1))
	if n == b.dieAt && !b.after {
		b.dead.Store(true)
		return errCrash
	}
	err := b.storage.Update(ctx, f)
	if b.each != nil {
		b.each(n)
	}
	if b.dieAt > 0 && n >= b.dieAt && err == nil { // one may fail: a slow one loses its lease
		b.dead.Store(true)
		return errCrash
	}
	return err
}

func (b *brittle) Extend(ctx context.Context, l store.Lease, ttl time.Duration) error {
	if b.dead.Load() || b.paused.Load() {
		return errCrash
	}
	return b.storage.Extend(ctx, l, ttl)
}

func (b *brittle) Release(ctx context.Context, l store.Lease) error {
	if b.dead.Load() {
		return errCrash
	}
	return b.storage.Release(ctx, l)
}

// brittle makes the world's worker one that can die.
func (w *world) brittle() *brittle {
	w.Helper()
	b := &brittle{storage: w.store}
	w.c = w.controller()
	w.c.store = b
	return b
}

// revive puts a new process in the place of a dead one, when the dead one's
// leases have run out.
func (w *world) revive() {
	w.Helper()
	dead := w.c
	dead.stop()
	dead.background.Wait()
	w.c = w.controller()
	w.move(w.c.leaseTTL + time.Millisecond)
}

// dieAt makes the worker die at the nth effect on the target, before or after it.
func (w *world) dieAtEffect(b *brittle, n int, after bool) {
	b.effect = n
	die := func(context.Context, wire.Desired) error {
		if b.effects++; b.effects == n && !b.dead.Load() {
			b.dead.Store(true)
			return errCrash
		}
		return nil
	}
	if after {
		w.target.after = die
	} else {
		w.target.before = die
	}
}

// outlived reports whether the story ended before the point at which to die: what a
// busy machine had cut short in another telling, and done twice, was done once in this.
func (b *brittle) outlived() bool {
	return int(b.commits.Load()) < b.dieAt || b.effects < b.effect
}

// counting counts effects.
func (w *world) counting(n *int) func(context.Context, wire.Desired) error {
	return func(context.Context, wire.Desired) error {
		*n++
		return nil
	}
}

var errAltered = fmt.Errorf("layer of main: %w", artifact.ErrAltered)
