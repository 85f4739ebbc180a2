package server

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// reserve is disk space that is kept for when the disk is full: then it is given
// up, so that at least a release that harms users can be taken back. It is made
// anew when there is space again.
type reserve struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
}

const (
	reserveSize  = 16 << 20
	reserveCheck = 10 * time.Second
)

// run keeps the reserve until ctx ends.
func (r *reserve) run(ctx context.Context) error {
	tick := time.NewTicker(reserveCheck)
	defer tick.Stop()
	for {
		r.make()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// make occupies the space unless that would leave less than as much again. That
// it can't be had is no error: then there is no reserve.
func (r *reserve) make() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if info, err := os.Stat(r.path); err == nil && info.Size() == reserveSize {
		return
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(r.path), &disk); err != nil || uint64(disk.Bsize)*disk.Bavail < 2*reserveSize {
		return
	}
	// Written, not only sized: a hole occupies nothing.
	if err := os.WriteFile(r.path, bytes.Repeat([]byte("reserve\n"), reserveSize/8), 0o600); err != nil {
		_ = os.Remove(r.path)
	}
}

// give gives the reserve up.
func (r *reserve) give() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.path); err == nil {
		r.log.Error("the disk is full: gave up the reserve so that rollbacks can be written; free some space now", "reserve", r.path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.log.Error("the disk is full and the reserve can't be given up", "error", err)
	}
}
