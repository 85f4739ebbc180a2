package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/crashpoint"
	"github.com/sluicehq/sluice/internal/store"
)

// safetyPoll bounds how long a lost wake-up can go unnoticed.
const safetyPoll = 2 * time.Second

// work leases due rows of table and hands each to handle, at most limit at a time,
// until ctx ends. It returns when all handlers have.
//
// If we die here while a row is leased, its lease runs out and another worker
// takes it; handle therefore observes first and repeats only what is not there.
func (c *Controller) work(ctx context.Context, table string, limit int, handle func(context.Context, store.Lease) error) error {
	topics, stop := c.store.Subscribe()
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, limit)
	freed := make(chan struct{}, 1)
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		n := 1
		for len(slots) < limit { // nobody else fills them
			slots <- struct{}{}
			n++
		}
		crashpoint.Here(crashpoint.BeforeLease)
		leases, err := c.store.Acquire(ctx, table, c.owner, c.leaseTTL, n)
		if len(leases) > 0 {
			crashpoint.Here(crashpoint.AfterLease)
		}
		for range n - len(leases) {
			<-slots
		}
		for _, lease := range leases {
			wg.Go(func() {
				defer func() {
					<-slots
					select {
					case freed <- struct{}{}:
					default:
					}
				}()
				c.hold(ctx, lease, handle)
			})
		}
		if err != nil && ctx.Err() == nil {
			c.makeSpace(err)
			c.log.Error("couldn't look for work; trying again", "table", table, "error", err)
		}
		if len(leases) == 0 {
			c.idle(ctx, table, topics, freed, err != nil)
		}
	}
	return nil
}

// makeSpace asks for some when that is what was missing.
func (c *Controller) makeSpace(err error) {
	if errors.Is(err, store.ErrFull) {
		c.full()
	}
}

// idle waits until a row is due, or for the safety poll. It looks again when it
// hears a topic or a slot is freed, and looks at what can be read beside a writer:
// taking a lease is a write, also one that finds nothing to take.
func (c *Controller) idle(ctx context.Context, table string, topics <-chan string, freed <-chan struct{}, failed bool) {
	wait := safetyPoll
	if failed {
		wait = 250 * time.Millisecond
	}
	poll := time.NewTimer(wait)
	defer poll.Stop()
	for {
		due := time.NewTimer(wait)
		if until, ok, err := c.store.NextWake(ctx, table); err == nil && ok && !failed {
			due.Reset(max(time.Millisecond, until))
		}
		again := waitFor(ctx, poll.C, due.C, topics, freed)
		due.Stop()
		if !again {
			return
		}
	}
}

// waitFor tells whether it is worth to look again, rather than to go on.
func waitFor(ctx context.Context, poll, due <-chan time.Time, topics <-chan string, freed <-chan struct{}) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-poll:
			return false
		case <-due:
			return false
		case <-freed:
			return true
		case topic := <-topics:
			if topic == store.TopicWork {
				return true
			}
		}
	}
}

// hold runs handle while it keeps the lease alive. A lost lease ends handle's
// context: what it had not committed is left to the new owner.
func (c *Controller) hold(ctx context.Context, lease store.Lease, handle func(context.Context, store.Lease) error) {
	lateness.WithLabelValues(lease.Table).Observe(lease.Late.Seconds())
	began := time.Now()
	defer func() { turnSeconds.WithLabelValues(lease.Table).Observe(time.Since(began).Seconds()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(c.leaseTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := c.store.Extend(ctx, lease, c.leaseTTL); errors.Is(err, store.ErrFenced) {
					cancel(err)
					return
				}
			}
		}
	})
	err := handle(ctx, lease)
	stopped := ctx.Err() != nil
	cancel(nil)
	wg.Wait()
	switch {
	case err == nil, stopped, errors.Is(err, store.ErrFenced):
	case errors.Is(err, store.ErrStale):
		// Somebody else changed the row meanwhile; it is due still.
	default:
		c.makeSpace(err)
		c.log.Error("couldn't take a row further; trying again", "table", lease.Table, "project", lease.Project, "id", lease.ID, "error", err)
		c.retryLater(lease)
	}
	if err := c.store.Release(context.WithoutCancel(ctx), lease); err != nil && !errors.Is(err, store.ErrFenced) {
		c.log.Warn("couldn't give back a lease; it runs out by itself", "table", lease.Table, "id", lease.ID, "error", err)
	}
}

// retryLater puts a row that failed to sleep for a moment, so that one broken
// row neither spins nor starves the others.
func (c *Controller) retryLater(lease store.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), c.leaseTTL)
	defer cancel()
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Check(lease); err != nil {
			return err
		}
		return tx.Sleep(lease.Table, lease.Project, lease.ID, tx.Now().Add(time.Second))
	})
	if err != nil && !errors.Is(err, store.ErrFenced) {
		c.log.Warn("couldn't put a row to sleep", "table", lease.Table, "id", lease.ID, "error", err)
	}
}
