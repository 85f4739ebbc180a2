package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

var key = release.Key{Project: "default", Service: "shop", Environment: "production"}

func TestKeptStateIsReadBack(t *testing.T) {
	dir := t.TempDir()
	k := kept{Version: 1, Desired: wire.Desired{Protocol: 1, Generation: 7, Key: key}, Granted: map[release.ID]int{"x": 5}}
	if err := keep(dir, k); err != nil {
		t.Fatal(err)
	}
	got, err := load(dir)
	if err != nil || len(got) != 1 || got[0].Desired.Generation != 7 || got[0].Granted["x"] != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
}

// To forget a generation would let an old one in: what can't be read is an error.
func TestUnreadableStateIsNotForgotten(t *testing.T) {
	for name, content := range map[string]string{
		"torn":          `{"version":1,"desi`,
		"empty":         ``,
		"newer":         `{"version":2}`,
		"another's key": `{"version":1,"desired":{"project":"default","service":"other","environment":"production"}}`,
	} {
		dir := t.TempDir()
		if err := writeFile(keptPath(dir, key), []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := load(dir); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// On a full disk a generation still becomes durable: the reserve makes room.
func TestFullDisk(t *testing.T) {
	dir := machinetest.SmallDisk(t, "4m")
	makeReserve(dir)
	if err := keep(dir, kept{Version: 1, Desired: wire.Desired{Generation: 1, Key: key}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Close()
	d := wire.Desired{Generation: 2, Key: key, Revisions: []wire.Revision{{Manifest: bytes.Repeat([]byte("m"), 20000)}}}
	if err := keep(dir, kept{Version: 1, Desired: d}); err != nil {
		t.Fatal(err)
	}
	got, err := load(dir)
	if err != nil || got[0].Desired.Generation != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever a stream says, check lets nothing through that later code can't bear.
func FuzzDesired(f *testing.F) {
	good, _ := json.Marshal(wire.Desired{Protocol: 1, Generation: 1, Key: key, Listen: ":0", Revisions: []wire.Revision{
		{Release: release.DigestOf(nil), Run: "x", Instances: 1, Weight: wire.FullWeight, Env: map[string]string{"A": "b"}},
	}})
	f.Add(good)
	f.Add([]byte(`{"protocol":1,"generation":1,"listen":":0","revisions":[{"weight":-1},{"weight":10001}]}`))
	f.Add([]byte(`{"protocol":1,"generation":1,"listen":":0","sticky":{"cookie":"a b"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var d wire.Desired
		if json.Unmarshal(in, &d) != nil || check(&d) != nil {
			return
		}
		sum := 0
		for _, r := range d.Revisions {
			sum += r.Weight
			if r.Weight < 0 || r.Instances < 0 || r.Instances > maxInstances {
				t.Errorf("let through %+v", r)
			}
			for k, v := range r.Env {
				if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
					t.Errorf("let through the variable %q=%q", k, v)
				}
			}
		}
		if sum != 0 && sum != wire.FullWeight {
			t.Errorf("let through weights of %d", sum)
		}
		if strings.ContainsAny(d.Sticky.Cookie+d.Sticky.Header, "\r\n;= ") {
			t.Errorf("let through %+v", d.Sticky)
		}
	})
}
