package demo

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
)

func TestEveryRequestIsCountedOnce(t *testing.T) {
	var answered, posts atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := answered.Add(1)
		if r.Method == http.MethodPost {
			posts.Add(1)
		}
		switch n % 10 {
		case 0:
			w.Header().Set("Shop-Version", "v2")
			w.WriteHeader(http.StatusInternalServerError)
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable) // of a proxy: nobody's version
		case 2:
			w.Header().Set("Shop-Version", "v2")
		default:
			w.Header().Set("Shop-Version", "v1")
		}
	}))
	defer srv.Close()
	l := startLoad(t.Context(), srv.Listener.Addr().String())
	machinetest.Until(t, "100 answers", func() bool { return answered.Load() >= 100 })
	c := l.end()
	if c.Requests() != answered.Load() {
		t.Errorf("the client counts %d requests, the service %d", c.Requests(), answered.Load())
	}
	of := func(rest int64) (n int64) {
		for i := range answered.Load() {
			if (i+1)%10 == rest {
				n++
			}
		}
		return n
	}
	if got, want := c.Versions["v2"], (Answers{Good: of(2), Bad: of(0)}); got != want {
		t.Errorf("v2 has %+v, want %+v", got, want)
	}
	if c.Dropped != of(1) {
		t.Errorf("%d dropped, want %d", c.Dropped, of(1))
	}
	if p := posts.Load(); p < answered.Load()/5 || p > answered.Load()/3 {
		t.Errorf("%d of %d requests are orders, want a quarter", p, answered.Load())
	}
}

func TestWhatWasBegunIsFinished(t *testing.T) {
	begun, finish := make(chan struct{}, loadWorkers), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Shop-Version", "v1")
		begun <- struct{}{}
		<-finish
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	l := startLoad(ctx, srv.Listener.Addr().String())
	<-begun
	cancel()
	time.AfterFunc(20*time.Millisecond, func() { close(finish) })
	if c := l.end(); c.Dropped != 0 || c.Versions["v1"].Good == 0 {
		t.Errorf("requests that had begun were cut off: %+v", c)
	}
}

func TestARefusedConnectionIsADrop(t *testing.T) {
	l := startLoad(t.Context(), porttest.Refused(t))
	machinetest.Until(t, "a drop", func() bool { return l.snapshot().Dropped > 0 })
	if c := l.end(); c.Requests() != c.Dropped {
		t.Errorf("somebody answered: %+v", c)
	}
}

func TestThePaceIsSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second+time.Millisecond)
		defer cancel()
		n := 0
		pace(ctx, loadRate, func(i int) {
			if i != n {
				t.Errorf("call %d has number %d", n, i)
			}
			n++
		})
		if n != 2*loadRate {
			t.Errorf("%d calls in two seconds, want %d", n, 2*loadRate)
		}
	})
}
