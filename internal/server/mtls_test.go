package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server"
)

// authority signs certificates below dir.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(a.path(name)+file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// An agent with a certificate of its host's name needs no token; with one of
// another host it gets nothing and reports nothing.
func TestAgentWithACertificate(t *testing.T) {
	ca := newAuthority(t)
	ca.sign("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	for _, h := range []string{"web-1", "web-2"} {
		ca.sign(h, &x509.Certificate{DNSNames: []string{h}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan server.Running, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{
			Dir: dir, Addr: "127.0.0.1:0", NoAgent: true, Log: logger(t), Isolation: isolation(t), Ready: func(r server.Running) { ready <- r },
			TLSCert: ca.path("server.pem"), TLSKey: ca.path("server.key"), TLSCA: ca.path("ca.pem"),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var up server.Running
	select {
	case up = <-ready:
	case <-time.After(machinetest.Patience):
		t.Fatal("the server did not start")
	}
	start := func(host, cert string) {
		ended := make(chan error, 1)
		go func() {
			ended <- agent.Run(ctx, agent.Config{
				Server: up.URL, Host: host, DataDir: filepath.Join(dir, "agent-"+host+cert), TrustFile: filepath.Join(dir, "promotion.pub"), DrainOnExit: time.Second,
				TLSCA: ca.path("ca.pem"), TLSCert: ca.path(cert + ".pem"), TLSKey: ca.path(cert + ".key"), Isolation: agent.None,
			})
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	start("web-1", "web-1")
	start("web-3", "web-2") // pretends to be another

	pool, err := agent.Authorities(ca.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	client := func(cert string) *http.Client {
		pair, err := tls.LoadX509KeyPair(ca.path(cert+".pem"), ca.path(cert+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	}
	ask := func(c *http.Client, method, path, token string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, up.URL+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b json.RawMessage
		_ = json.NewDecoder(res.Body).Decode(&b)
		return res.StatusCode, b
	}
	web2 := client("web-2")
	var hosts []byte
	machinetest.Until(t, "the agent has reported", func() bool {
		_, hosts = ask(web2, "GET", "/api/v1/projects/default/hosts", up.Token)
		return strings.Contains(string(hosts), `"web-1"`)
	})
	if strings.Contains(string(hosts), "web-3") {
		t.Errorf("a host spoke for another: %s", hosts)
	}
	// A host's certificate fetches, and does nothing else.
	for path, want := range map[string]int{
		"GET /v2/": 200, "POST /v2/default/shop/blobs/uploads/": 403, "GET /api/v1/projects/default/hosts": 401,
		"GET /agent/v1/desired?host=web-1&after=0&protocol=1": 403,
	} {
		method, path, _ := strings.Cut(path, " ")
		if code, b := ask(web2, method, path, ""); code != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, code, want, b)
		}
	}
}
