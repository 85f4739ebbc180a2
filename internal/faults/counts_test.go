package faults

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
)

// instance is one that an agent has on record.
type instance struct {
	PID     int
	Port    int
	Ready   bool
	Key     release.Key
	Release release.ID
}

// onRecord are the instances of production that an agent has on record.
func onRecord(t *testing.T, agentDir string) []instance {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(agentDir, "instances", "instances.json"))
	if err != nil {
		t.Error(err)
		return nil
	}
	var file struct{ Instances map[string]instance }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Error(err)
	}
	var out []instance
	for _, i := range file.Instances {
		if i.Key.Environment == "production" {
			out = append(out, i)
		}
	}
	return out
}

// alive counts the processes that really run of each release.
func alive(t *testing.T, agentDir string) map[release.ID]int {
	t.Helper()
	out := map[release.ID]int{}
	for _, i := range onRecord(t, agentDir) {
		if running(i.PID) {
			out[i.Release]++
		}
	}
	return out
}

// fewest watches agents until it is stopped, and says how few instances that
// answer they had at any moment. It asks the processes themselves.
func fewest(t *testing.T, agentDirs ...string) (stop func() int) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	least := 1 << 20
	quit := make(chan struct{})
	var wg sync.WaitGroup
	count := func() int {
		n := 0
		for _, dir := range agentDirs {
			for _, i := range onRecord(t, dir) {
				if i.Ready && running(i.PID) && answers(client, i.Port) {
					n++
				}
			}
		}
		return n
	}
	wg.Go(func() {
		for {
			n := count()
			if n < least {
				n = max(n, count()) // one that went while it was asked is in nobody's way
			}
			least = min(least, n)
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	end := sync.OnceFunc(func() { close(quit); wg.Wait() })
	t.Cleanup(end)
	return func() int { end(); return least }
}

func answers(c *http.Client, port int) bool {
	res, err := c.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/healthz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// kinds are the plan's steps in a word each.
func kinds(s control.Status) []rollout.StepKind {
	var out []rollout.StepKind
	for _, p := range production(s).Plan {
		out = append(out, p.Kind)
	}
	return out
}
