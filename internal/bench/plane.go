package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/server"
)

// plane is `sluice up`, the real program, on a data folder.
type plane struct {
	s     *suite
	dir   string
	addr  string
	url   string
	token string
	log   *os.File
	args  []string // of up, beside the usual ones
	cmd   *exec.Cmd
	done  chan struct{} // closed when cmd has ended
}

func (s *suite) plane() (*plane, error) {
	dir, err := os.MkdirTemp(s.dir, "data-")
	if err != nil {
		return nil, fmt.Errorf("couldn't make a data folder: %w", err)
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "bench.log"))
	if err != nil {
		return nil, fmt.Errorf("couldn't make a log: %w", err)
	}
	return &plane{s: s, dir: dir, addr: addr, url: "http://" + addr, log: log}, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("couldn't find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// client keeps its connections: the server looks up who is at the other end of
// each new one.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// up starts the server and waits until it is ready. It returns how long that
// took, from before the process was made.
func (p *plane) up() (time.Duration, error) {
	isolation := runner.Namespaces
	if runner.Probe(p.s.ctx) != nil {
		isolation = runner.None
	}
	p.cmd = exec.Command(p.s.sluice, append([]string{"up", "--data", p.dir, "--addr", p.addr, "--isolation", string(isolation)}, p.args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return 0, fmt.Errorf("couldn't start sluice: %w", err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(p.cmd, p.done)
	for deadline := began.Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		res, err := http.Get(p.url + "/readyz")
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-p.done:
			return 0, fmt.Errorf("the server ended at once: %s", p.tail())
		default:
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the server was not ready within 30 s: %s", p.tail())
		}
	}
	took := time.Since(began)
	var err error
	p.token, err = server.Folder(p.dir).Token()
	return took, err
}

func (p *plane) tail() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1000):])
}

// kill ends the server as a power cut would; its agent goes on.
func (p *plane) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// down ends everything of the folder.
func (p *plane) down() {
	if _, err := server.Folder(p.dir).Down(context.Background()); err != nil {
		p.s.say("couldn't end everything in %s: %v", p.dir, err)
	}
	if p.done != nil {
		<-p.done
	}
	_ = p.log.Close()
}

func (p *plane) call(method, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(p.s.ctx, method, p.url+"/api/v1/projects/default/"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("couldn't %s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("couldn't %s %s: %w", method, path, err)
	}
	if res.StatusCode >= 400 {
		return fmt.Errorf("%s %s was answered %d: %s", method, path, res.StatusCode, body)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = body
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}

// pollEvery is seldom enough to cost the server little.
const pollEvery = 100 * time.Millisecond

// wait polls a run until ok.
func (p *plane) wait(id string, ok func(control.Status) bool) (control.Status, error) {
	for deadline := time.Now().Add(60 * time.Second); ; {
		var st control.Status
		if err := p.call("GET", "runs/"+id, nil, &st); err != nil {
			return st, err
		}
		if ok(st) {
			return st, nil
		}
		if time.Now().After(deadline) {
			return st, fmt.Errorf("run %s is %s after 60 s: %s", id, st.State, st.Reason)
		}
		select {
		case <-p.s.ctx.Done():
			return st, p.s.ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

func (p *plane) start(repo, path string) (string, error) {
	var started struct{ Run string }
	err := p.call("POST", "runs", map[string]string{"repository": repo, "path": path}, &started)
	return started.Run, err
}

// released waits for a run's success.
func (p *plane) released(id string) (control.Status, error) {
	st, err := p.wait(id, func(st control.Status) bool { return ended(st.State) })
	if err == nil && st.State != run.Succeeded {
		err = fmt.Errorf("run %s is %s: %s", id, st.State, st.Reason)
	}
	return st, err
}

func ended(o run.Outcome) bool {
	switch o {
	case run.Succeeded, run.Failed, run.RolledBack, run.RollbackFailed, run.Cancelled, run.Superseded:
		return true
	}
	return false
}

// repository is a Git repository of services that run this program.
type repository struct {
	dir string
	s   *suite
}

func (s *suite) repository() (repository, error) {
	dir, err := os.MkdirTemp(s.dir, "repo-")
	if err != nil {
		return repository{}, fmt.Errorf("couldn't make a repository: %w", err)
	}
	r := repository{dir: dir, s: s}
	return r, r.git("init", "-q", "-b", "main")
}

func (r repository) git(args ...string) error {
	cmd := exec.CommandContext(r.s.ctx, "git", append([]string{"-C", r.dir, "-c", "user.name=B", "-c", "user.email=b@example.test", "-c", "commit.gpgsign=false"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("couldn't git %v: %w: %s", args, err, out)
	}
	return nil
}

// commit writes a service's file and commits it. The rollout has one step.
func (r repository) commit(service, listen, env, bake string) error {
	text := fmt.Sprintf(`version: 1
service: %[1]s
owner: team-bench
build:
  steps: [{name: make, kind: package, run: 'mkdir out && cp sluice.yaml out/'}]
  artifact: {type: files, path: out}
environments:
  - name: production
    target:
      type: host
      listen: '%[2]s'
      run: exec '%[3]s'
      health: {http: /healthz, interval: 100ms}
      env: {%[4]s: service, ANSWER: '%[5]s'}
    rollout: {canary: {steps: [{weight: 50, bake: %[6]s}]}}
    analysis: {warmUp: 0s, bin: 1s, maxExcess: 5, minEvents: 5, metrics: [http-errors]}
`, service, listen, r.s.service, roleEnv, env, bake)
	dir := filepath.Join(r.dir, service)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "sluice.yaml"), []byte(text), 0o644)); err != nil {
		return fmt.Errorf("couldn't write a service: %w", err)
	}
	if err := r.git("add", "-A"); err != nil {
		return err
	}
	return r.git("commit", "-q", "-m", service)
}
