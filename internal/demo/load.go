package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// load is a crowd of customers. It asks at a steady rate whatever it is
// answered, over connections that stay open, and counts each request once.
type load struct {
	base   string
	client *http.Client
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu     sync.Mutex
	counts Counts
}

// Counts are what customers were answered.
type Counts struct {
	Versions map[string]Answers
	Dropped  int64 // no answer, or one that no version gave
}

// Answers are of one version. Bad are those with a status of 500 and above.
type Answers struct{ Good, Bad int64 }

// Requests is how many requests were sent.
func (c Counts) Requests() int64 {
	n := c.Dropped
	for _, a := range c.Versions {
		n += a.Good + a.Bad
	}
	return n
}

const (
	loadRate     = 250 // requests a second
	loadWorkers  = 64  // at most so many requests are open
	loadPatience = 30 * time.Second
	customers    = 10000 // that the example has
)

// startLoad begins to send requests to the example at an address.
func startLoad(ctx context.Context, address string) *load {
	ctx, stop := context.WithCancel(ctx)
	l := &load{base: "http://" + address, stop: stop, counts: Counts{Versions: map[string]Answers{}}}
	l.client = &http.Client{Timeout: loadPatience, Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: loadPatience}).DialContext,
		MaxIdleConnsPerHost: loadWorkers, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}}
	due := make(chan int)
	for range loadWorkers {
		l.ended.Go(func() {
			for n := range due {
				// A request that has begun is finished: one that were cut off
				// would be counted by nobody.
				l.ask(context.WithoutCancel(ctx), n)
			}
		})
	}
	l.ended.Go(func() {
		defer close(due)
		pace(ctx, loadRate, func(n int) { due <- n })
	})
	return l
}

// pace calls f with 0, 1, 2, … at a rate per second. When f was held up it does
// not make up for the lost time with a burst.
func pace(ctx context.Context, rate int, f func(n int)) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f(n)
		}
	}
}

// end stops sending, waits for the open requests and returns the final counts.
func (l *load) end() Counts {
	l.stop()
	l.ended.Wait()
	l.client.CloseIdleConnections()
	return l.snapshot()
}

// snapshot returns the counts so far.
func (l *load) snapshot() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{Versions: make(map[string]Answers, len(l.counts.Versions)), Dropped: l.counts.Dropped}
	for v, a := range l.counts.Versions {
		c.Versions[v] = a
	}
	return c
}

// ask makes one customer's request: mostly for a price, sometimes an order.
func (l *load) ask(ctx context.Context, n int) {
	method, path := http.MethodGet, "/price"
	if n%4 == 3 {
		method, path = http.MethodPost, "/orders"
	}
	version, status, err := l.request(ctx, method, fmt.Sprintf("%s%s?customer=%d", l.base, path, rand.IntN(customers)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || version == "" {
		l.counts.Dropped++
		return
	}
	a := l.counts.Versions[version]
	if status >= 500 {
		a.Bad++
	} else {
		a.Good++
	}
	l.counts.Versions[version] = a
}

func (l *load) request(ctx context.Context, method, url string) (version string, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", 0, err
	}
	res, err := l.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "", 0, err // an answer that breaks off is none
	}
	return res.Header.Get("Shop-Version"), res.StatusCode, nil
}
