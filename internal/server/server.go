package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/blob"
	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/evidence/keyfile"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/metric/embedded"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/secret"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
	"github.com/sluicehq/sluice/internal/webui"
)

// Options are what `sluice up` can be told.
type Options struct {
	Dir            string
	Addr           string // host:port; port 0 picks a free one
	Database       string // postgres://…; empty: SQLite in Dir
	TLSCert        string
	TLSKey         string
	Show           []string // paths in private folders that services may read
	Secrets        []string // folders that services' secrets may lie in, besides the data folder's own
	TLSCA          string   // that signs the certificates of agents on other machines
	InsecureListen bool     // allow other addresses than loopback without TLS
	Isolation      runner.Isolation
	Platform       []pipeline.Platform // whose standards services may name; none or one
	NoAgent        bool                // start no local agent
	Program        string              // path of this program, to start the agent
	Version        string
	Log            *slog.Logger
	// Ready, where set, is told where the server listens, once it does.
	Ready func(Running)
}

// Running is a server that answers.
type Running struct {
	URL    string
	Token  string
	Access *httpapi.Access
}

// ParseOptions let a definition be checked as this build's adapters would, and as
// a platform's file wants it, where one is named.
func ParseOptions(platform ...pipeline.Platform) []pipeline.Option {
	out := []pipeline.Option{pipeline.WithGateCheck(gate.Check), pipeline.WithQueryCheck(embedded.Check), pipeline.WithCheckReady(check.Here)}
	for _, p := range platform {
		out = append(out, pipeline.WithPlatform(p))
	}
	return out
}

// stopWithin bounds how long open requests are waited for at the end.
const stopWithin = 5 * time.Second

// ErrOptions says that the options themselves are wrong: nothing was begun.
var ErrOptions = errors.New("couldn't start")

// Run is `sluice up`: it returns when ctx ends, or when something fails.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("couldn't find the data folder: %w", err)
	}
	if err := checkListen(o); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	folder := Folder(dir)
	if err := folder.prepare(); err != nil {
		return err
	}
	database := o.Database
	if database == "" {
		database = "sqlite:" + folder.path("sluice.db")
	}
	st, err := store.Open(ctx, database, store.Options{Logger: o.Log, Address: o.Addr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	token, err := folder.secret("token")
	if err != nil {
		return err
	}
	registryKey, err := folder.secret("registry.key")
	if err != nil {
		return err
	}
	keys, err := keyfile.LoadOrCreateRing(folder.path("keys"))
	if err != nil {
		return err
	}
	for _, k := range keys.Public() {
		if k.Purpose == evidence.PurposePromotion {
			if err := writeFile(folder.promotionKey(), k.PEM()); err != nil {
				return fmt.Errorf("couldn't write the key that agents trust: %w", err)
			}
		}
	}
	blobs, err := blob.Open(folder.path("blobs"), 0)
	if err != nil {
		return err
	}
	series, err := embedded.Open(folder.path("metrics"), o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, series.Close()) }()
	access, err := httpapi.NewAccess(token)
	if err != nil {
		return err
	}
	if o.InsecureListen && o.TLSCert == "" {
		access.BehindProxy()
	}
	var authorities *x509.CertPool
	if o.TLSCA != "" {
		if authorities, err = agent.Authorities(o.TLSCA); err != nil {
			return err
		}
		access.RequireCertificates()
	}
	reg, err := registry.New(registry.Options{
		Root: folder.path("registry"), Key: []byte(registryKey), Index: st, Log: o.Log,
		Authorizer: registry.AuthorizerFunc(func(r *http.Request, _ string, action registry.Action) error {
			switch {
			case access.Bears(r):
				return nil
			case access.Agent(r) == nil:
				return registry.ErrUnauthenticated
			case action != registry.ActionPull:
				return registry.ErrForbidden // agents fetch, and publish nothing
			}
			return nil
		}),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()

	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return fmt.Errorf("couldn't listen on %s: %w; choose another with --addr, or end what listens there", o.Addr, err)
	}
	defer listener.Close()
	scheme := "http"
	if o.TLSCert != "" {
		scheme = "https"
	}
	url := scheme + "://" + listener.Addr().String()

	spool := folder.path("spool")
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return fmt.Errorf("couldn't make a folder: %w", err)
	}
	spare := &reserve{path: folder.path("reserve"), log: o.Log}
	c, err := control.New(control.Config{
		Full:  spare.give,
		Store: st, Blobs: blobs, Keys: keys, Artifacts: &shelf{base: func() string { return url }, token: token, spool: spool},
		Target: host.New(st), Metrics: asker{series}, Dir: dir, Log: o.Log, Isolation: o.Isolation, Secret: secret.Below(folder.secrets()), Redact: secret.Within(o.secretFolders(folder), []string{dir}), ParseOptions: ParseOptions(o.Platform...),
	})
	if err != nil {
		return err
	}
	stopping, stop := context.WithCancel(ctx)
	defer stop()
	web := webui.New(webui.Config{Control: c, Access: access, Version: o.Version})
	api := httpapi.New(stopping, httpapi.Config{
		Control: c, Access: access, Answers: c, Scrapes: series, Registry: reg, Web: web, Metrics: promhttp.Handler(),
		Version: o.Version, Log: o.Log, Ready: func(ctx context.Context) error { return st.View(ctx, func(*store.Tx) error { return nil }) },
	})
	srv := &http.Server{
		Handler: api, ConnContext: httpapi.ConnContext, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	if err := writeJSON(folder.infoFile(), Info{Process: self(), URL: url, Started: time.Now().UTC()}); err != nil {
		return fmt.Errorf("couldn't note where the server listens: %w", err)
	}
	defer os.Remove(folder.infoFile())

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		if scheme == "https" {
			srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			if authorities != nil {
				srv.TLSConfig.ClientCAs, srv.TLSConfig.ClientAuth = authorities, tls.VerifyClientCertIfGiven
			}
			err = srv.ServeTLS(listener, o.TLSCert, o.TLSKey)
		} else {
			err = srv.Serve(listener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("couldn't serve: %w", err)
	})
	g.Go(func() error {
		<-ctx.Done()
		stop()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close() // what did not end in time is cut off
		}
		return nil
	})
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error { return spare.run(ctx) })
	if !o.NoAgent {
		a := &localAgent{folder: folder, server: url, log: o.Log, command: o.agentCommand(folder, url)}
		g.Go(func() error { return a.run(ctx) })
	}
	if o.Ready != nil {
		o.Ready(Running{URL: url, Token: token, Access: access})
	}
	return g.Wait()
}

// checkListen refuses to answer other machines without TLS, unless told to.
// agentCommand starts the local agent. Its services see nothing of the server's: not
// the data folder, and not the key of its certificate wherever that lies.
func (o Options) agentCommand(folder Folder, url string) []string {
	out := []string{
		o.Program, "agent", "--data", folder.agent(), "--server", url, "--token-file", folder.path("token"),
		"--trust", folder.promotionKey(), "--host", LocalHost,
		"--hide", string(folder),
	}
	if o.TLSKey != "" {
		out = append(out, "--own", o.TLSKey)
	}
	if o.TLSCA != "" {
		out = append(out, "--tls-ca", o.TLSCA)
	}
	for _, path := range o.Show {
		out = append(out, "--show", path)
	}
	for _, dir := range o.secretFolders(folder) {
		out = append(out, "--secrets", dir)
	}
	if o.Isolation == runner.None {
		out = append(out, "--isolation", string(runner.None))
	}
	return out
}

// secretFolders are those that services' secrets may lie in.
func (o Options) secretFolders(folder Folder) []string {
	return append([]string{folder.secrets()}, o.Secrets...)
}

func checkListen(o Options) error {
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key belong together: give both or neither")
	}
	if o.TLSCA != "" && o.TLSCert == "" {
		return errors.New("--tls-ca is for agents' certificates, and there are none without TLS: give --tls-cert and --tls-key too")
	}
	if o.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey); err != nil {
			return fmt.Errorf("--tls-cert and --tls-key name no certificate with its key, in PEM: %w", err)
		}
	}
	hostname, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return fmt.Errorf("--addr %q is not HOST:PORT, for instance 127.0.0.1:8711", o.Addr)
	}
	if o.TLSCert != "" || o.InsecureListen || hostname == "localhost" {
		return nil
	}
	ip, err := netip.ParseAddr(hostname)
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("--addr %s can be reached from other machines, and without TLS the access token would travel in the clear: give --tls-cert and --tls-key, or --insecure-listen if something in front does TLS", o.Addr)
	}
	return nil
}

// asker lets control ask the embedded series.
type asker struct{ series *embedded.DB }

// Ask implements control.Metrics.
func (a asker) Ask(ctx context.Context, q control.Question) ([]control.Sample, error) {
	found, err := a.series.Query(ctx, q.Key, q.Query)
	if errors.Is(err, embedded.ErrNothing) {
		return nil, nothing{err}
	}
	if err != nil {
		return nil, err
	}
	out := make([]control.Sample, 0, len(found))
	for _, s := range found {
		out = append(out, control.Sample{Series: s.Series, Value: s.Value})
	}
	return out, nil
}

// nothing is control's word for what the series say, without saying it twice.
type nothing struct{ error }

// Is implements what errors.Is asks.
func (n nothing) Is(target error) bool { return target == control.ErrNothing }
