// Command service behaves as the file behaviour.json beside it says: it is what
// the tests of faults release.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

var behaviour struct {
	Version      string
	Bad          float64 // percent of requests answered with 500
	StartMillis  int     // until it listens
	CheckMillis  int     // until /check is answered
	Exit         bool    // at once
	NeverHealthy bool
	ExitAfter    int64 // requests
	Dead         int   // letters that it could not deliver, in its metrics
}

func main() {
	b, err := os.ReadFile("behaviour.json")
	if err == nil {
		err = json.Unmarshal(b, &behaviour)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if behaviour.Exit {
		fmt.Fprintln(os.Stderr, "cannot start: the database's address is missing")
		os.Exit(3)
	}
	time.Sleep(time.Duration(behaviour.StartMillis) * time.Millisecond)
	var requests, begun atomic.Int64
	say := func(w http.ResponseWriter) {
		w.Header().Set("Version", behaviour.Version)
		w.Header().Set("Pid", strconv.Itoa(os.Getpid()))
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if behaviour.NeverHealthy {
			http.Error(w, "the cache is cold", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/check", func(w http.ResponseWriter, _ *http.Request) {
		say(w)
		time.Sleep(time.Duration(behaviour.CheckMillis) * time.Millisecond)
	})
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE dead_letters gauge\ndead_letters %d\n", behaviour.Dead)
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		say(w)
		begun.Add(1)
		d, _ := time.ParseDuration(r.URL.Query().Get("for"))
		time.Sleep(min(d, 10*time.Second))
		fmt.Fprintln(w, "slow", behaviour.Version)
	})
	http.HandleFunc("/begun", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, begun.Load()) }) // of /slow
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if n := requests.Add(1); behaviour.ExitAfter > 0 && n > behaviour.ExitAfter {
			fmt.Fprintln(os.Stderr, "panic: out of luck")
			os.Exit(4)
		}
		say(w)
		if rand.Float64()*100 < behaviour.Bad {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "hello", behaviour.Version)
	})
	s := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	select {
	case err := <-ended:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(drain)
	}
}
