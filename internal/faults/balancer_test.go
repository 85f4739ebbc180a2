package faults

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// relay takes connections until the test ends, and gives each to pass, whose
// context ends with the test.
func relay(t *testing.T, pass func(ctx context.Context, in net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				pass(ctx, in)
			})
		}
	})
	return l.Addr().String()
}

// balancer is what stands before several control planes: it passes connections on
// to the first that says that it is ready, and ends those to one that is not any
// more, as load balancers do that ask /readyz.
func balancer(t *testing.T, planes ...*plane) (url string) {
	t.Helper()
	var mu sync.Mutex
	ready := map[*plane]context.Context{}
	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	t.Cleanup(func() { cancel(); asking.Wait() })
	for _, p := range planes {
		asking.Go(func() {
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
	return "http://" + relay(t, func(_ context.Context, in net.Conn) {
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
	})
}
