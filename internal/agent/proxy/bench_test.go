package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
)

var (
	stable    = release.DigestOf([]byte("stable"))
	candidate = release.DigestOf([]byte("candidate"))
)

// BenchmarkBesideNginx prints the proxy's requests per second as a share of
// nginx's, both in front of the same two servers that answer 1 KiB, 95/5, with
// 64 keep-alive connections. The servers are nginx too: what they cost is in both.
func BenchmarkBesideNginx(b *testing.B) {
	for _, tool := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("SKIPPED: %s is not installed, so there is nothing to compare with (apt-get install nginx-light wrk)", tool)
		}
	}
	dir := b.TempDir()
	addrs := make([]string, 3)
	for i := range addrs {
		addrs[i] = porttest.Free(b)
	}
	body := bytes.Repeat([]byte("x"), 1024)
	for _, name := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "index.html"), body, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		b.Fatal(err)
	}
	_ = os.Chmod(dir, 0o755)
	conf := fmt.Sprintf(`
daemon off; worker_processes 2; pid %[1]s/nginx.pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  keepalive_requests 100000000; open_file_cache max=10;
  upstream stable { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  upstream candidate { server %[3]s; keepalive 128; keepalive_requests 100000000; }
  split_clients "$request_id" $pool { 5%% candidate; * stable; }
  server { listen %[2]s; root %[1]s/a; }
  server { listen %[3]s; root %[1]s/b; }
  server { listen %[4]s; location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://$pool; } }
}`, dir, addrs[0], addrs[1], addrs[2])
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", file, "-e", filepath.Join(dir, "error.log"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	machinetest.Until(b, "nginx listens", func() bool {
		nc, err := net.Dial("tcp", addrs[2])
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := proxy.New(proxy.Options{Name: "bench"})
	s.Set(proxy.Route{Revisions: []proxy.Revision{
		{Release: stable, Weight: 9500, Instances: []proxy.Instance{{ID: "a", Addr: addrs[0]}}},
		{Release: candidate, Weight: 500, Candidate: true, Instances: []proxy.Instance{{ID: "b", Addr: addrs[1]}}},
	}})
	go s.Serve(l)
	b.Cleanup(func() { _ = s.Shutdown(b.Context()) })

	var ours, theirs float64
	for b.Loop() {
		// Interleaved, so that a busy neighbour hurts both.
		for range 3 {
			n, p := wrk(b, "http://"+addrs[2])
			theirs += n
			o, q := wrk(b, "http://"+l.Addr().String()+"/")
			ours += o
			b.Logf("nginx %.0f/s p99 %s; sluice %.0f/s p99 %s", n, p, o, q)
		}
	}
	b.ReportMetric(ours/theirs, "x-nginx")
	b.ReportMetric(0, "ns/op")
	var requests uint64
	for _, id := range []release.ID{stable, candidate} {
		for _, c := range s.Counters(id) {
			requests += c.Requests
		}
	}
	b.Logf("%d requests counted in %d buckets, %.2f x nginx (budget 0.8)", requests, wire.Buckets, ours/theirs)
}

var (
	rate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	p99  = regexp.MustCompile(`(?m)^\s+99%\s+(\S+)`)
)

func wrk(b *testing.B, url string) (perSecond float64, tail string) {
	out, err := exec.Command("wrk", "-t1", "-c64", "-d3s", "--latency", url).CombinedOutput()
	if err != nil {
		b.Fatalf("wrk: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("Non-2xx")) || bytes.Contains(out, []byte("Socket errors")) {
		b.Fatalf("wrk saw errors:\n%s", out)
	}
	m := rate.FindSubmatch(out)
	perSecond, err = strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return perSecond, string(p99.FindSubmatch(out)[1])
}
