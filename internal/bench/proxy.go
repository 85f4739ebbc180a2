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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// contestant is one proxy in front of the two services.
type contestant struct {
	name  string
	addr  string
	rates []float64 // requests per second, by round
	tails []float64 // 99th percentile in seconds, by round
}

// proxies sends the same load through our proxy, nginx and, where it could be
// built, Caddy, in turns, to the same two servers of 1 KiB answers. Those are
// an nginx of their own: what they cost is in all.
func proxies(s *suite) error {
	nginx, err := find("nginx")
	if err != nil {
		return fmt.Errorf("%w; apt-get install nginx-light", err)
	}
	wrk, err := find("wrk")
	if err != nil {
		return fmt.Errorf("%w; apt-get install wrk", err)
	}
	var services [2]string // stable, candidate
	for i := range services {
		if services[i], err = freeAddr(); err != nil {
			return err
		}
	}
	ours, theirs := &contestant{name: "sluice"}, &contestant{name: "nginx"}
	all := []*contestant{ours, theirs}
	caddy, caddyErr := s.buildCaddy()
	other := &contestant{name: "Caddy"}
	if caddyErr == nil {
		all = append(all, other)
	}
	for _, c := range all {
		if c.addr, err = freeAddr(); err != nil {
			return err
		}
	}
	// The services are processes of their own for nginx too, or it would have an answer
	// from itself where the others have to wait for another process.
	for _, servers := range []string{served(services), split(services, theirs.addr)} {
		stop, err := s.nginx(nginx, servers)
		if err != nil {
			return err
		}
		defer stop()
	}
	if caddyErr == nil {
		stop, err := s.caddy(caddy, services, other.addr)
		if err != nil {
			return err
		}
		defer stop()
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("couldn't find this program: %w", err)
	}
	var printed bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleProxy, "LISTEN="+ours.addr, "STABLE="+services[0], "CANDIDATE="+services[1])
	if s.cpu != "" {
		cmd.Env = append(cmd.Env, "PROFILE="+s.cpu+".proxy")
	}
	cmd.Stdout, cmd.Stderr = &printed, os.Stderr
	end, err := begin(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	defer end()
	seconds := s.times(5, 1)
	measure := func(addr string) (float64, time.Duration, error) {
		out, err := exec.CommandContext(s.ctx, wrk, "-t1", "-c64", fmt.Sprintf("-d%ds", seconds), "--latency", "http://"+addr+"/").CombinedOutput()
		if err != nil {
			return 0, 0, fmt.Errorf("wrk failed: %w: %s", err, out)
		}
		return readWrk(string(out))
	}
	// All warm: connections, caches, the heap.
	for _, c := range all {
		if err := s.answers(c.addr); err != nil {
			return err
		}
		if _, _, err := measure(c.addr); err != nil {
			return err
		}
	}
	var lines strings.Builder
	lines.WriteString("| round |")
	for _, c := range all {
		fmt.Fprintf(&lines, " %[1]s, requests/s | %[1]s, p99 |", c.name)
	}
	lines.WriteString("\n|---|" + strings.Repeat("---|---|", len(all)) + "\n")
	for round := range s.times(6, 1) {
		cells := make([]string, len(all))
		for k := range all {
			i := (k + round) % len(all) // each has its turn to be first
			rate, tail, err := measure(all[i].addr)
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			all[i].rates, all[i].tails = append(all[i].rates, rate), append(all[i].tails, tail.Seconds())
			cells[i] = fmt.Sprintf("%.0f | %s", rate, ms(tail))
		}
		fmt.Fprintf(&lines, "| %d | %s |\n", round+1, strings.Join(cells, " | "))
	}
	calm := make([]sample, len(all))
	for round := range s.times(3, 1) {
		for k := range all {
			i := (k + round) % len(all)
			got, err := s.paced(all[i].addr)
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			calm[i] = append(calm[i], got...)
		}
	}
	for i, c := range all {
		s.report.other(fmt.Sprintf("%s at %d requests/s", c.name, pace), calm[i].String())
	}
	calmTails := [2]time.Duration{calm[0].at(0.99), calm[1].at(0.99)}
	end()
	var counts counted
	if err := json.Unmarshal(printed.Bytes(), &counts); err != nil {
		return fmt.Errorf("couldn't read what the proxy counted: %w", err)
	}
	n := counts.Stable + counts.Candidate
	if n == 0 || counts.Latencies != n {
		return fmt.Errorf("the proxy counted %d requests and %d latencies: counting was not on", n, counts.Latencies)
	}
	s.compare(ours, theirs, "≥ 0.8 ×", 0.8)
	tail := median(ours.tails) / median(theirs.tails)
	s.report.budget("proxy, 99th percentile of latency", "≤ nginx's", fmt.Sprintf("%.2f × (%s against %s)", tail, ms(inSeconds(median(ours.tails))), ms(inSeconds(median(theirs.tails)))), tail <= 1)
	s.report.other(fmt.Sprintf("proxy, 99th percentile of latency at %d requests/s", pace), fmt.Sprintf("%.2f × nginx's (%s against %s)", calmTails[0].Seconds()/calmTails[1].Seconds(), ms(calmTails[0]), ms(calmTails[1])))
	if caddyErr == nil {
		s.compare(ours, other, "≥ 2 ×", 2)
	} else {
		s.report.failed("proxy beside Caddy", caddyErr)
	}
	s.report.detail("Proxies", fmt.Sprintf("64 keep-alive connections, 1 KiB answers, 95/5 split; ours counts and keeps histograms as in the agent, and runs in a process of its own. wrk with 1 thread, %d s each, in turns; medians of these rounds count. Ours counted %d requests, %.2f %% of them at the candidate.\n\n%s", seconds, n, 100*float64(counts.Candidate)/float64(n), lines.String()))
	return nil
}

// pace is what a proxy is asked for below what it can do, in requests per second.
const pace = 4000

// paced asks with 64 connections, each in a rhythm of its own, and measures from
// when a request was due: who answers late is not asked less.
func (s *suite) paced(addr string) (sample, error) {
	const conns = 64
	transport := &http.Transport{MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	every := conns * time.Second / pace
	times, failed := make([]sample, conns), make([]error, conns)
	began := time.Now().Add(100 * time.Millisecond)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			for n := range s.times(3, 1) * pace / conns {
				due := began.Add(time.Duration(n)*every + time.Duration(i)*every/conns)
				time.Sleep(time.Until(due))
				res, err := client.Get("http://" + addr + "/")
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				if err != nil {
					failed[i] = err
					return
				}
				times[i] = append(times[i], time.Since(due))
			}
		})
	}
	wg.Wait()
	return slices.Concat(times...), errors.Join(failed...)
}

func (s *suite) compare(ours, theirs *contestant, budget string, least float64) {
	ratio := median(ours.rates) / median(theirs.rates)
	s.report.budget("proxy, requests/s", budget+" "+theirs.name, fmt.Sprintf("%.2f × (%.0f/s against %.0f/s)", ratio, median(ours.rates), median(theirs.rates)), ratio >= least)
}

// caddyModule is built here, so that its dependencies are not ours.
var caddyModule = filepath.Join("testdata", "real", "caddy")

func (s *suite) buildCaddy() (string, error) {
	if _, err := os.Stat(caddyModule); err != nil {
		return "", fmt.Errorf("couldn't find its module: %w", err)
	}
	path := filepath.Join(s.dir, "caddy")
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	cmd.Dir = caddyModule
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("couldn't build it: %w: %s", err, out)
	}
	return path, nil
}

// caddy starts one as the proxy before the services.
func (s *suite) caddy(program string, services [2]string, front string) (stop func(), err error) {
	dir, err := os.MkdirTemp(s.dir, "caddy-")
	if err != nil {
		return nil, fmt.Errorf("couldn't make a folder: %w", err)
	}
	conf := fmt.Sprintf(`{"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "ERROR"}}}, "apps": {"http": {"servers": {"bench": {
  "listen": [%q], "automatic_https": {"disable": true}, "protocols": ["h1"],
  "routes": [{"handle": [{"handler": "reverse_proxy",
    "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [95, 5]}},
    "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": 128}},
    "upstreams": [{"dial": %q}, {"dial": %q}]}]}]}}}}}`, front, services[0], services[1])
	file := filepath.Join(dir, "caddy.json")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("couldn't write Caddy's configuration: %w", err)
	}
	cmd := exec.Command(program, "run", "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stderr = os.Stderr
	return begin(cmd, syscall.SIGTERM)
}

func inSeconds(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }

// find looks for a program, also where Debian keeps servers.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not installed, so there is nothing to compare with", name)
}

// begin starts a process; end asks it to end, and waits, once.
func begin(cmd *exec.Cmd, sig os.Signal) (end func(), err error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("couldn't start %s: %w", filepath.Base(cmd.Path), err)
	}
	ended := false
	return func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
	}, nil
}

// nginx starts one with these servers, which have a page of 1 KiB.
func (s *suite) nginx(program, servers string) (stop func(), err error) {
	dir, err := os.MkdirTemp(s.dir, "nginx-")
	if err != nil {
		return nil, fmt.Errorf("couldn't make a folder: %w", err)
	}
	// Its workers are somebody else's when root starts it.
	for _, d := range []string{s.dir, dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			return nil, fmt.Errorf("couldn't open a folder to nginx: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), bytes.Repeat([]byte("x"), 1024), 0o644); err != nil {
		return nil, fmt.Errorf("couldn't write a page: %w", err)
	}
	conf := fmt.Sprintf(`
daemon off; worker_processes auto; pid %[1]s/nginx.pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  keepalive_requests 100000000; open_file_cache max=10; root %[1]s;
  %[2]s
}`, dir, servers)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("couldn't write nginx's configuration: %w", err)
	}
	cmd := exec.Command(program, "-c", file, "-e", filepath.Join(dir, "error.log"))
	cmd.Stderr = os.Stderr
	return begin(cmd, syscall.SIGTERM)
}

// served are the servers of two services, for nginx's configuration.
func served(services [2]string) string {
	return fmt.Sprintf("server { listen %s; } server { listen %s; }", services[0], services[1])
}

// split is a proxy before two services, for nginx's configuration.
func split(services [2]string, front string) string {
	return fmt.Sprintf(`upstream stable { server %[1]s; keepalive 128; keepalive_requests 100000000; }
  upstream candidate { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  split_clients "$request_id" $pool { 5%% candidate; * stable; }
  server { listen %[3]s; location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://$pool; } }`, services[0], services[1], front)
}

// answers waits until something listens.
func (s *suite) answers(addr string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			return nc.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing listens at %s: %w", addr, err)
		}
	}
}

var (
	wrkRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkTail = regexp.MustCompile(`(?m)^\s+99%\s+([0-9.]+(?:us|ms|s))\s*$`)
)

// readWrk reads requests per second and the 99th percentile of what wrk prints.
func readWrk(out string) (float64, time.Duration, error) {
	if strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
		return 0, 0, fmt.Errorf("wrk saw errors: %s", out)
	}
	r, t := wrkRate.FindStringSubmatch(out), wrkTail.FindStringSubmatch(out)
	if r == nil || t == nil {
		return 0, 0, fmt.Errorf("couldn't read what wrk printed: %s", out)
	}
	rate, err := strconv.ParseFloat(r[1], 64)
	if err != nil {
		return 0, 0, fmt.Errorf("couldn't read wrk's rate: %w", err)
	}
	tail, err := time.ParseDuration(t[1])
	if err != nil {
		return 0, 0, fmt.Errorf("couldn't read wrk's latency: %w", err)
	}
	return rate, tail, nil
}
