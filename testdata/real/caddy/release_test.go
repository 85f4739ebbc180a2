package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// configuration is of a Caddy that answers with its version, in HTTP/1.1 and, in
// clear text, in HTTP/2.
const configuration = `{"admin": {"disabled": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "ERROR"}}},
"apps": {"http": {"grace_period": "5s", "servers": {"shop": {
  "listen": ["127.0.0.1:{env.PORT}"], "automatic_https": {"disable": true}, "protocols": ["h1", "h2c"],
  "routes": [
    {"match": [{"path": ["/healthz"]}], "handle": [{"handler": "static_response", "status_code": "200"}], "terminal": true},
    {"handle": [{"handler": "static_response", "status_code": "{env.ANSWER}", "body": "{env.VERSION}", "headers": {"X-Version": ["{env.VERSION}"]}}]}
  ]}}}}}`

const definition = `version: 1
service: web
owner: team-web
build:
  steps: [{name: package, kind: package, run: mkdir out && cp caddy.json out/}]
  artifact: {type: files, path: out}
environments:
  - name: production
    target:
      type: host
      listen: %s
      run: exec %s run --config caddy.json
      env: {VERSION: %q, ANSWER: "%d"}
      health: {http: /healthz, interval: 100ms}
    rollout: {canary: {steps: [{weight: 50, bake: 5s}]}}
    analysis: {warmUp: 0s, bin: 1s, maxExcess: 5, metrics: [http-errors]}
`

// A service that we did not write is released by the program as users have it:
// once, once more with only its configuration changed, and once badly. Nobody is
// dropped, in HTTP/1.1 or HTTP/2, and what is exported verifies.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} { // services run as somebody else
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := &program{T: t, sluice: filepath.Join(dir, "sluice"), data: filepath.Join(dir, "data")}
	caddy := filepath.Join(dir, "caddy")
	p.output("../../..", "go", "build", "-o", p.sluice, "./cmd/sluice")
	p.output(".", "go", "build", "-o", caddy, ".")
	p.up()

	repo, listen := filepath.Join(dir, "repo"), freeAddress(t)
	if err := os.Mkdir(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	p.output(repo, "git", "init", "-q", "-b", "main")
	ship := func(version string, answer int, want string) {
		t.Helper()
		text := fmt.Sprintf(definition, listen, caddy, version, answer)
		for name, s := range map[string]string{"caddy.json": configuration, "sluice.yaml": text} {
			if err := os.WriteFile(filepath.Join(repo, name), []byte(s), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p.output(repo, "git", "add", "-A")
		p.output(repo, "git", "-c", "user.name=A", "-c", "user.email=a@example.test", "-c", "commit.gpgsign=false", "commit", "-q", "-m", version)
		out, err := p.command("run", "--repo", repo).CombinedOutput()
		if want == "succeeded" && err != nil || want != "succeeded" && err == nil {
			t.Fatalf("the run of %s ended with %v:\n%s", version, err, out)
		}
		var runs []struct{ State, Reason string }
		if err := json.Unmarshal(p.say("runs", "--json"), &runs); err != nil || len(runs) == 0 || runs[0].State != want {
			t.Fatalf("the run of %s is %+v, want it %s: %v\n%s", version, runs, want, err, out)
		}
	}
	ship("one", 200, "succeeded")
	load := startLoad(listen)
	ship("two", 200, "succeeded")
	if got := load.counts(); got.wrong.Load() > 0 {
		t.Errorf("%d answers were wrong: %v", got.wrong.Load(), got.why.Load())
	}
	ship("three", 500, "rolled-back")
	load.stop()
	if c := load.counts(); c.dropped.Load() > 0 || c.http2.Load() == 0 || c.http1.Load() == 0 {
		t.Errorf("%d requests were dropped (%v); %d were answered in HTTP/1.1 and %d in HTTP/2", c.dropped.Load(), c.why.Load(), c.http1.Load(), c.http2.Load())
	}
	res, err := http.Get("http://" + listen + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "two" || res.Header.Get("X-Version") != "two" {
		t.Errorf("after the bad one %q answers, %v", b, err)
	}
	bundle := filepath.Join(dir, "bundle.json")
	p.say("evidence", "export", "-o", bundle)
	if out := p.say("evidence", "verify", bundle); len(out) == 0 {
		t.Error("verify says nothing")
	}
}

// program is the product, as a user has it.
type program struct {
	*testing.T
	sluice, data string
}

func (p *program) output(dir, name string, args ...string) []byte {
	p.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func (p *program) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	p.Cleanup(cancel)
	return exec.CommandContext(ctx, p.sluice, append(args, "--data", p.data)...)
}

func (p *program) say(args ...string) []byte {
	p.Helper()
	out, err := p.command(args...).Output()
	if err != nil {
		p.Fatalf("sluice %v: %v\n%s", args, err, out)
	}
	return out
}

// up starts the server, and ends all that it started when the test does.
func (p *program) up() {
	p.Helper()
	log, err := os.Create(filepath.Join(filepath.Dir(p.data), "up.log"))
	if err != nil {
		p.Fatal(err)
	}
	addr := freeAddress(p.T)
	up := p.command("up", "--addr", addr)
	up.Stdout, up.Stderr = log, log
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := up.Start(); err != nil {
		p.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = up.Wait(); close(ended) }()
	p.Cleanup(func() {
		p.say("down")
		<-ended
	})
	for ctx, deadline := p.Context(), time.Now().Add(5*time.Minute); ; {
		if res, err := http.Get("http://" + addr + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ended:
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		b, _ := os.ReadFile(log.Name())
		p.Fatalf("the server did not become ready:\n%s", b)
	}
}

// freeAddress is below the ports that the system gives to outgoing connections.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(10000)))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("couldn't find a free port from 10000 to 20000")
	return ""
}

type counts struct {
	http1, http2, wrong, dropped atomic.Int64
	why                          atomic.Value
}

type load struct {
	counted *counts
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// startLoad lets two clients of each protocol ask in turn.
func startLoad(addr string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{counted: &counts{}, cancel: cancel}
	for i := range 4 {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(i%2 == 0)
		transport.Protocols.SetUnencryptedHTTP2(i%2 == 1)
		client := &http.Client{Transport: transport, Timeout: time.Minute}
		l.wg.Go(func() {
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				l.ask(ctx, client, addr)
			}
		})
	}
	return l
}

func (l *load) ask(ctx context.Context, client *http.Client, addr string) {
	res, err := client.Get("http://" + addr + "/")
	if err != nil {
		l.counted.dropped.Add(1)
		l.counted.why.Store(err.Error())
		return
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		l.counted.dropped.Add(1)
		l.counted.why.Store(err.Error())
	case res.StatusCode != http.StatusOK || !strings.Contains("one two", string(b)):
		l.counted.wrong.Add(1)
		l.counted.why.Store(fmt.Sprintf("%s %.80q", res.Status, b))
	}
	if res.ProtoMajor == 2 {
		l.counted.http2.Add(1)
	} else {
		l.counted.http1.Add(1)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

func (l *load) counts() *counts { return l.counted }

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}
