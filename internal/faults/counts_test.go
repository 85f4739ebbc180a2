package faults

import (
	"cmp"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
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
	slices.SortFunc(out, func(a, b instance) int { return cmp.Compare(a.PID, b.PID) })
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
// answer they had at any moment. It asks the processes themselves; where the
// agents' records changed while they were asked, who came and who went is unknown,
// and that is no moment.
func fewest(t *testing.T, agentDirs ...string) (stop func() int) {
	client := &http.Client{Timeout: machinetest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	least, moments := 1<<20, 0
	quit := make(chan struct{})
	var wg sync.WaitGroup
	records := func() (out []instance) {
		for _, dir := range agentDirs {
			out = append(out, onRecord(t, dir)...)
		}
		return out
	}
	count := func() (n int, still bool) {
		before := records()
		for _, i := range before {
			if i.Ready && running(i.PID) && answers(client, i.Port) {
				n++
			}
		}
		return n, slices.Equal(before, records())
	}
	wg.Go(func() {
		for {
			n, still := count()
			if still && n < least {
				// One that was told to go, and has not been crossed out, is in nobody's way.
				var again int
				again, still = count()
				n = max(n, again)
			}
			if still {
				least, moments = min(least, n), moments+1
			}
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	end := sync.OnceFunc(func() { close(quit); wg.Wait() })
	t.Cleanup(end)
	return func() int {
		end()
		if moments == 0 {
			t.Error("there was no moment at which the instances could be counted")
		}
		return least
	}
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
