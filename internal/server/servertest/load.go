package servertest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// Load sends requests to a service until it is stopped, and counts what comes
// back.
type Load struct {
	stop func()

	open sync.RWMutex // held by each request until it is counted
	mu   sync.Mutex
	got  Counts
}

// Counts are what a [Load] met. A service says which version answered in the
// header Version.
type Counts struct {
	All     int
	Bad     int // answered with 5xx
	Dropped int // not answered at all
	By      map[string]int
	LastOK  time.Time      // when the last request began that came back well
	Errors  map[string]int // of those that were bad or dropped
}

// StartLoad sends 100 requests a second per worker to addr.
func StartLoad(addr string, workers int) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{got: Counts{By: map[string]int{}, Errors: map[string]int{}}}
	tr := &http.Transport{MaxIdleConnsPerHost: workers}
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					l.one(c, "http://"+addr+"/")
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait(); tr.CloseIdleConnections() })
	return l
}

func (l *Load) one(c *http.Client, url string) {
	l.open.RLock()
	defer l.open.RUnlock()
	began := time.Now()
	res, err := c.Get(url)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got.All++
	switch {
	case err != nil:
		l.got.Dropped++
		l.got.Errors[err.Error()]++
	case res.StatusCode >= 500:
		l.got.Bad++
		l.got.By[res.Header.Get("Version")]++
		l.got.Errors[fmt.Sprintf("%s %s: %.80s", res.Header.Get("Version"), res.Status, body)]++
	default:
		l.got.By[res.Header.Get("Version")]++
		if began.After(l.got.LastOK) {
			l.got.LastOK = began
		}
	}
}

// Settled waits for the requests that are open and returns the counts: whatever
// they grow by was asked after the call.
func (l *Load) Settled() Counts {
	l.open.Lock()
	defer l.open.Unlock()
	return l.Counts()
}

// Counts returns what came back until now. Of two requests the one that was
// answered first may be counted last.
func (l *Load) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.got
	c.By, c.Errors = maps.Clone(c.By), maps.Clone(c.Errors)
	return c
}

// Stop ends the load, waits for open requests and returns all counts.
func (l *Load) Stop() Counts {
	l.stop()
	return l.Counts()
}
