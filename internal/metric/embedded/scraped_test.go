package embedded

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
)

// A real agent scrapes a real process over HTTP, and whatever that answers is
// told as what it is: no answer is taken for a number that it is not.
func TestWhatInstancesAnswer(t *testing.T) {
	plane := agenttest.NewPlane(t)
	agent := plane.StartAgent(t, "one", t.TempDir())
	listen := porttest.Free(t)
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} { // services run as somebody else
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "metrics")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	say("depth 1\n")
	run := func(metrics string) {
		rev := plane.Revision(t, shop, agenttest.Release{Files: map[string]string{"a": metrics}, Env: map[string]string{"VERSION": "v"}})
		rev.Metrics, rev.Weight = metrics, wire.FullWeight
		g := plane.Desire(wire.Desired{Key: shop, Listen: listen, Revisions: []wire.Revision{rev}})
		plane.WaitWeights(t, "one", shop, g, map[release.ID]int{rev.Release: wire.FullWeight})
	}
	run("/read?p=" + url.QueryEscape(file))
	d := openReal(t)
	wait := func(what string, ok func(s []Sample, err error) bool) {
		t.Helper()
		var last string
		machinetest.Until(t, what, func() bool {
			_ = d.Append(t.Context(), plane.Observed("one").Scrapes)
			s, err := d.Query(t.Context(), shop, "depth")
			last = fmt.Sprint(s, err)
			return ok(s, err)
		}, func() string { return last })
	}
	why := func(words string) func([]Sample, error) bool {
		return func(s []Sample, err error) bool {
			return s == nil && errors.Is(err, ErrNothing) && strings.Contains(err.Error(), words)
		}
	}
	wait("a number", func(s []Sample, err error) bool { return err == nil && len(s) == 1 && s[0].Value == 1 })
	say("depth NaN\n")
	wait("NaN", func(s []Sample, err error) bool { return err == nil && len(s) == 1 && math.IsNaN(s[0].Value) })
	say("depth{queue=\"a\"} 1\ndepth{queue=\"b\"} 2\n")
	wait("several series", func(s []Sample, err error) bool { return err == nil && len(s) == 2 })
	say("width 1\n")
	wait("another metric", why("no series of shop in production matches it"))
	say("depth is quite low today\n")
	wait("text", why("line after series 0"))
	say("<html><body>not found</body></html>")
	wait("a page", why("line after series 0"))
	run("/fail")
	wait("500", why("answered 500"))
	run("/read?p=" + url.QueryEscape(file))
	say("depth 2\n")
	wait("a number again", func(s []Sample, err error) bool { return err == nil && len(s) == 1 && s[0].Value == 2 })
	// Nobody scrapes any more: what was said is late.
	agent.Kill()
	var last string
	machinetest.Until(t, "late", func() bool {
		s, err := d.Query(t.Context(), shop, "depth")
		last = fmt.Sprint(s, err)
		return why("old, and one is due every 1s")(s, err)
	}, func() string { return last })
}
