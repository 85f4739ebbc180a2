package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

const (
	scrapeEvery = time.Second
	scrapeIn    = 900 * time.Millisecond
	maxScrape   = 1 << 20
	scrapers    = 8 // at the same time
)

// scrape asks each ready instance for its metrics, for services that want that.
func (a *agent) scrape() {
	client := &http.Client{
		Transport:     &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	t := time.NewTicker(scrapeEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-a.ctx.Done():
			return
		}
		var todo []target
		if !a.do(a.ctx, func() { todo = a.targets() }) {
			return
		}
		if len(todo) == 0 {
			continue
		}
		var wait sync.WaitGroup
		slots := make(chan struct{}, scrapers)
		for _, at := range todo {
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				if err := at.ask(a.ctx, client); err != nil {
					at.At, at.Error = time.Now().UTC(), problem(err)
					a.cfg.Logger.Debug("couldn't scrape", "instance", at.Instance, "error", err)
				}
			})
		}
		wait.Wait()
		a.do(a.ctx, func() {
			for _, at := range todo {
				if at.Body != nil || at.Error != "" {
					a.scrapes[at.Key.String()+at.Instance] = at.Scrape
				}
			}
			nudge(a.kick)
		})
	}
}

// target is one instance's metrics, and what it answered.
type target struct {
	*answer
	url string
}

type answer struct{ wire.Scrape }

func (a *agent) targets() []target {
	var out []target
	for _, s := range a.services {
		for id, r := range s.revs {
			if r.group == nil || r.spec.Metrics == "" || r.stopping {
				continue
			}
			for _, i := range r.group.Ready() {
				out = append(out, target{
					answer: &answer{wire.Scrape{Key: s.key, Release: id, Instance: i.ID}},
					url:    "http://" + i.Addr() + r.spec.Metrics,
				})
			}
		}
	}
	return out
}

func (t target) ask(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, scrapeIn)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1")
	req.Header.Set("User-Agent", "sluice-scrape")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", t.url, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxScrape+1))
	if err != nil {
		return err
	}
	if len(b) > maxScrape {
		return fmt.Errorf("%s answered more than %d bytes", t.url, maxScrape)
	}
	t.At, t.Type, t.Body = time.Now().UTC(), res.Header.Get("Content-Type"), b
	return nil
}

// problem words an error for those who judge by the metrics.
func problem(err error) string {
	var u *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer its metrics within %s", scrapeIn)
	case errors.As(err, &u):
		err = u.Err
	}
	s := "its metrics could not be asked: " + err.Error()
	return s[:min(len(s), 300)]
}

// sent forgets the scrapes that a report delivered, unless newer ones came.
func (a *agent) sent(scrapes []wire.Scrape) {
	for _, sc := range scrapes {
		k := sc.Key.String() + sc.Instance
		if a.scrapes[k].At.Equal(sc.At) {
			delete(a.scrapes, k)
		}
	}
}
