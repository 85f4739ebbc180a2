package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// besideNginx sends the same load through our proxy and through nginx, in turns,
// to the same two servers of 1 KiB answers. Those are nginx too: what they cost
// is in both.
func besideNginx(s *suite) error {
	nginx, err := find("nginx")
	if err != nil {
		return fmt.Errorf("%w; apt-get install nginx-light", err)
	}
	wrk, err := find("wrk")
	if err != nil {
		return fmt.Errorf("%w; apt-get install wrk", err)
	}
	var addrs [4]string // stable, candidate, nginx, ours
	for i := range addrs {
		if addrs[i], err = freeAddr(); err != nil {
			return err
		}
	}
	stop, err := s.nginx(nginx, addrs[0], addrs[1], addrs[2])
	if err != nil {
		return err
	}
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("couldn't find this program: %w", err)
	}
	var printed bytes.Buffer
	ours := exec.Command(self)
	ours.Env = append(os.Environ(), roleEnv+"="+roleProxy, "LISTEN="+addrs[3], "STABLE="+addrs[0], "CANDIDATE="+addrs[1])
	ours.Stdout, ours.Stderr = &printed, os.Stderr
	end, err := begin(ours, syscall.SIGTERM)
	if err != nil {
		return err
	}
	defer end()
	for _, a := range addrs {
		if err := s.answers(a); err != nil {
			return err
		}
	}
	seconds := s.times(5, 1)
	measure := func(addr string) (float64, time.Duration, error) {
		out, err := exec.CommandContext(s.ctx, wrk, "-t1", "-c64", fmt.Sprintf("-d%ds", seconds), "--latency", "http://"+addr+"/").CombinedOutput()
		if err != nil {
			return 0, 0, fmt.Errorf("wrk failed: %w: %s", err, out)
		}
		return readWrk(string(out))
	}
	// Both warm: connections, caches, the heap.
	for _, a := range addrs[2:] {
		if _, _, err := measure(a); err != nil {
			return err
		}
	}
	var rates, tails [2][]float64
	var lines strings.Builder
	lines.WriteString("| round | nginx, requests/s | nginx, p99 | ours, requests/s | ours, p99 |\n|---|---|---|---|---|\n")
	for round := range s.times(6, 1) {
		var cells [2]string
		for k := range 2 {
			which := (k + round) % 2 // each goes first in half of the rounds
			rate, tail, err := measure(addrs[2+which])
			if err != nil {
				return err
			}
			rates[which], tails[which] = append(rates[which], rate), append(tails[which], tail.Seconds())
			cells[which] = fmt.Sprintf("%.0f | %s", rate, ms(tail))
		}
		fmt.Fprintf(&lines, "| %d | %s | %s |\n", round+1, cells[0], cells[1])
	}
	end()
	var counts counted
	if err := json.Unmarshal(printed.Bytes(), &counts); err != nil {
		return fmt.Errorf("couldn't read what the proxy counted: %w", err)
	}
	all := counts.Stable + counts.Candidate
	if all == 0 || counts.Latencies != all {
		return fmt.Errorf("the proxy counted %d requests and %d latencies: counting was not on", all, counts.Latencies)
	}
	ratio, tail := median(rates[1])/median(rates[0]), median(tails[1])/median(tails[0])
	budget := "64 keep-alive connections, 1 KiB answers, 95/5 split, counting and histograms on"
	s.report.budget("proxy beside nginx, requests/s ("+budget+")", "≥ 0.8 × nginx", fmt.Sprintf("%.2f × (%.0f/s against %.0f/s)", ratio, median(rates[1]), median(rates[0])), ratio >= 0.8)
	s.report.budget("proxy beside nginx, p99", "≤ nginx", fmt.Sprintf("%.2f × (%s against %s)", tail, ms(seconds2(median(tails[1]))), ms(seconds2(median(tails[0])))), tail <= 1)
	s.report.detail("Proxy beside nginx", fmt.Sprintf("Medians of these rounds; wrk with 1 thread, %d s each, in turns. The proxy counted %d requests, %.2f %% of them at the candidate.\n\n%s", seconds, all, 100*float64(counts.Candidate)/float64(all), lines.String()))
	return nil
}

func seconds2(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }

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

// nginx starts one as two services and as the proxy before them.
func (s *suite) nginx(program, stable, candidate, front string) (stop func(), err error) {
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
  keepalive_requests 100000000; open_file_cache max=10;
  upstream stable { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  upstream candidate { server %[3]s; keepalive 128; keepalive_requests 100000000; }
  split_clients "$request_id" $pool { 5%% candidate; * stable; }
  server { listen %[2]s; root %[1]s; }
  server { listen %[3]s; root %[1]s; }
  server { listen %[4]s; location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://$pool; } }
}`, dir, stable, candidate, front)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("couldn't write nginx's configuration: %w", err)
	}
	cmd := exec.Command(program, "-c", file, "-e", filepath.Join(dir, "error.log"))
	cmd.Stderr = os.Stderr
	return begin(cmd, syscall.SIGTERM)
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
