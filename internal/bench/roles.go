package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/release"
)

// roleEnv makes this program another process of a measurement.
const roleEnv = "BENCH_ROLE"

const (
	roleService = "service" // answers with status $ANSWER on $PORT
	roleProxy   = "proxy"   // the agent's proxy on $LISTEN before $STABLE and $CANDIDATE
)

func play(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch role {
	case roleService:
		err = playService(ctx)
	case roleProxy:
		err = playProxy(ctx)
	default:
		err = fmt.Errorf("%s=%s is no role", roleEnv, role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func playService(ctx context.Context) error {
	status, err := strconv.Atoi(os.Getenv("ANSWER"))
	if err != nil {
		return fmt.Errorf("couldn't read ANSWER: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	s := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(end)
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// playProxy serves as the agent does, with everything counted, and prints the
// counts when it ends.
func playProxy(ctx context.Context) error {
	if file := os.Getenv("PROFILE"); file != "" {
		f, err := os.Create(file)
		if err != nil {
			return fmt.Errorf("couldn't write a profile: %w", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("couldn't begin a profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	l, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		return err
	}
	stable, candidate := release.DigestOf([]byte("stable")), release.DigestOf([]byte("candidate"))
	s := proxy.New(proxy.Options{Name: "bench"})
	s.Set(proxy.Route{Revisions: []proxy.Revision{
		{Release: stable, Weight: 9500, Instances: []proxy.Instance{{ID: "a", Addr: os.Getenv("STABLE")}}},
		{Release: candidate, Weight: 500, Candidate: true, Instances: []proxy.Instance{{ID: "b", Addr: os.Getenv("CANDIDATE")}}},
	}})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.Shutdown(end)
	var counts counted
	for id, n := range map[release.ID]*uint64{stable: &counts.Stable, candidate: &counts.Candidate} {
		for _, c := range s.Counters(id) {
			*n += c.Requests
			for _, k := range c.Latency {
				counts.Latencies += k
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(counts); err != nil {
		return err
	}
	return <-ended
}

// counted is what a proxy counted in its life.
type counted struct{ Stable, Candidate, Latencies uint64 }

// load sends requests to addresses at a rate, on kept connections.
type load struct {
	sent, bad, dropped atomic.Int64
	stop               func()
}

func startLoad(addrs []string, perSecond int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{}
	tr := &http.Transport{MaxIdleConnsPerHost: 4}
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	var wg sync.WaitGroup
	for _, a := range addrs {
		for range 2 {
			wg.Go(func() {
				tick := time.NewTicker(2 * time.Second / time.Duration(perSecond))
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					res, err := client.Get("http://" + a + "/")
					l.sent.Add(1)
					if err != nil {
						l.dropped.Add(1)
						continue
					}
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					if res.StatusCode >= 500 {
						l.bad.Add(1)
					}
				}
			})
		}
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait(); tr.CloseIdleConnections() })
	return l
}
