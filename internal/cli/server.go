package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/store"
)

// logger writes for people, or one JSON document a line.
func (a *app) logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if a.json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func (a *app) up() *cobra.Command {
	var o server.Options
	var isolation, platformFile string
	var verbose bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Run the server, and an agent on this machine",
		Long: `Runs the control plane: API, web pages, registry and loops, and starts an agent
on this machine, which goes on serving traffic when the server ends. It stays in
the foreground; Ctrl-C ends the server alone, "sluice down" also what it started.`,
		Example: "  sluice up\n  sluice up --database postgres://sluice@db/sluice --addr 0.0.0.0:8711 --tls-cert c.pem --tls-key k.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("couldn't find this program: %w", err)
			}
			switch runner.Isolation(isolation) {
			case runner.Namespaces, runner.None:
			default:
				return usage("--isolation is %q; it is namespaces, or none for trusted code only", isolation)
			}
			if o.Platform, err = a.platform(platformFile); err != nil {
				return err
			}
			for i, path := range o.Show {
				if _, err := os.Stat(path); err != nil {
					return usage("--show: %v", err)
				}
				o.Show[i] = abs(path)
			}
			if o.Secrets, err = secretFolders(o.Secrets); err != nil {
				return err
			}
			o.Dir, o.Program, o.Version, o.Isolation = a.data, program, Version(), runner.Isolation(isolation)
			o.Log = a.logger(a.err, verbose)
			o.Ready = func(r server.Running) { a.ready(cmd.Context(), r) }
			err = server.Run(cmd.Context(), o)
			if errors.Is(err, server.ErrOptions) {
				return usage("%w", err)
			}
			var locked *store.LockedError
			if errors.As(err, &locked) {
				return fmt.Errorf("couldn't start: %w; end it with sluice down, or take another folder with --data", err)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Addr, "addr", "127.0.0.1:8711", "where to listen")
	f.StringVar(&o.Database, "database", "", "postgres://… instead of SQLite in the data folder")
	a.platformFlag(c, &platformFile)
	f.StringVar(&o.TLSCert, "tls-cert", "", "certificate file (PEM)")
	f.StringVar(&o.TLSKey, "tls-key", "", "key file of the certificate (PEM)")
	f.StringVar(&o.TLSCA, "tls-ca", "", "authorities (PEM) whose certificates agents on other machines must show; no token takes their place")
	f.BoolVar(&o.InsecureListen, "insecure-listen", false, "answer other machines without TLS: only behind something that does it")
	f.StringArrayVar(&o.Show, "show", nil, "a path in a private folder that services may read (repeatable)")
	f.StringArrayVar(&o.Secrets, "secrets", nil, "a folder whose files services of this machine may be given as secrets, besides secrets in the data folder; build steps never (repeatable)")
	f.BoolVar(&o.NoAgent, "no-agent", false, "start no agent on this machine")
	f.StringVar(&isolation, "isolation", string(runner.Namespaces), "of build steps and services: namespaces, or none for trusted code only")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return c
}

// loginLife is how long the log-in link of up works.
const loginLife = 24 * time.Hour

// ready tells where the server is, with a log-in link that works once.
func (a *app) ready(_ context.Context, r server.Running) {
	code := r.Access.Code(time.Now(), loginLife)
	if a.json {
		_ = a.printJSON(map[string]string{"url": r.URL, "login": r.URL + "/login?code=" + code})
		return
	}
	fmt.Fprintf(a.out, "Sluice runs at %s\nOpen %s/login?code=%s (works once, within a day)\n", r.URL, r.URL, code)
}

func (a *app) down() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "End everything that a data folder started, after draining open requests",
		Example: "  sluice down\n  sluice down --data /var/lib/sluice",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := server.Folder(abs(a.data)).Down(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]bool{"stopped": found})
			}
			if !found {
				a.say("Nothing of the data folder %s was running.", a.data)
				return nil
			}
			a.say("Stopped the server, the agent and its instances.")
			return nil
		},
	}
}

func (a *app) agentToken() *cobra.Command {
	var at []string
	c := &cobra.Command{
		Use:   "agent-token HOST",
		Short: "Print the token of one host's agent",
		Long: `Prints a token that lets the agent of one host fetch what it shall run and report
it, and nothing else: no command, no approval, no other host. It is made of the
access token, so it needs no server, and ends when that token is changed.`,
		Example: "  sluice agent-token web-1 > web-1.token",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			host := args[0]
			if host == "" || len(host) > 255 || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				return usage("host %.80q is no host's name", host)
			}
			if len(at) > 16 {
				return usage("%d addresses are more than 16", len(at))
			}
			for _, address := range at {
				if ip, err := netip.ParseAddr(address); err != nil || ip.IsUnspecified() || ip.IsMulticast() {
					return usage("--address %.80q is no address of one machine, such as 10.0.0.5", address)
				}
			}
			token := a.token
			if token == "" {
				token = os.Getenv("SLUICE_TOKEN")
			}
			if token == "" {
				b, err := os.ReadFile(filepath.Join(a.data, "token"))
				if err != nil {
					return fmt.Errorf("couldn't read the access token: %w; say where the server's data folder is with --data", err)
				}
				token = strings.TrimSpace(string(b))
			}
			access, err := httpapi.NewAccess(token)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"host": host, "token": access.AgentToken(host, at...)})
			}
			fmt.Fprintln(a.out, access.AgentToken(host, at...))
			return nil
		},
	}
	c.Flags().StringArrayVar(&at, "address", nil, "an address besides the one that the host calls from, where its services answer (repeatable)")
	return c
}

// systemFolders are those that nearly every program needs something of.
var systemFolders = []string{"/boot", "/dev", "/etc", "/home", "/mnt", "/opt", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/var", "/var/lib", "/var/run", "/var/tmp"}

// secretFolders makes the folders of --secrets absolute. The agent itself takes one
// that is not there, lest it does not come back for it after a crash.
func secretFolders(dirs []string) ([]string, error) {
	out := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, usage("--secrets: %v", err)
		}
		if !info.IsDir() {
			return nil, usage("--secrets: %s is no folder; name the one that the file is in", dir)
		}
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, usage("--secrets: %v", err)
		}
		switch real = abs(real); {
		case real == "/":
			return nil, usage("--secrets / would give services any file of this machine; name the folder that the secrets are in")
		case sandbox.Shown(real):
			return nil, usage("--secrets: build steps see %s, as all of the system's programs; keep secrets elsewhere", dir)
		case slices.Contains(systemFolders, real):
			return nil, usage("--secrets: %s is hidden from services whole, and they need what else is in it; keep the secrets in a folder of their own below it, such as %s", dir, filepath.Join(real, "sluice-secrets"))
		}
		out = append(out, abs(dir))
	}
	return out, nil
}

func abs(path string) string {
	if p, err := filepath.Abs(path); err == nil {
		return p
	}
	return path
}

func (a *app) agent() *cobra.Command {
	var cfg agent.Config
	var tokenFile string
	var verbose bool
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run revisions on this host and split traffic there",
		Long: `Runs what a server wants on this host: fetches releases by digest, verifies them,
supervises their processes, splits traffic by weight and counts what comes of it.
It dials out, and goes on with its last orders when the server is away. Its
instances outlive it: the next agent on the same data folder takes them up.

To upgrade, replace the program and send SIGHUP: the new one takes over listeners,
connections and instances, and no request is dropped.`,
		Example: "  sluice agent --server https://sluice.example:8711 --token-file token --trust promotion.pub --host web-1 --data /var/lib/sluice-agent",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Server, cfg.Token, cfg.DataDir, cfg.Version = a.server, a.token, a.data, Version()
			if cfg.Token == "" {
				cfg.Token = os.Getenv("SLUICE_TOKEN")
			}
			if tokenFile != "" {
				b, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("couldn't read the access token: %w", err)
				}
				cfg.Token = strings.TrimSpace(string(b))
				cfg.Own = append(cfg.Own, tokenFile)
			}
			if cfg.Server == "" || cfg.Token == "" && cfg.TLSCert == "" || cfg.TrustFile == "" {
				return usage("an agent needs --server, --token-file (or --tls-cert and --tls-key) and --trust (the file promotion.pub of the server's data folder)")
			}
			if (cfg.TLSCert == "") != (cfg.TLSKey == "") {
				return usage("--tls-cert and --tls-key belong together: give both or neither")
			}
			if cfg.TLSKey != "" {
				cfg.Own = append(cfg.Own, cfg.TLSKey)
			}
			switch cfg.Isolation {
			case agent.Namespaces, agent.None:
			default:
				return usage("--isolation is %q; it is namespaces, or none for trusted code only", cfg.Isolation)
			}
			for i, path := range cfg.Show {
				if _, err := os.Stat(path); err != nil {
					return usage("--show: %v", err)
				}
				cfg.Show[i] = abs(path)
			}
			cfg.Logger = a.logger(a.err, verbose)
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("couldn't find this program: %w", err)
			}
			// The shell's Ctrl-C ends a foreground agent. SIGHUP has the program at our
			// path, which may be a newer one, take over.
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				for {
					select {
					case <-hangup:
						if err := server.StartAgain(program, append(slices.Clone(os.Args[1:]), "--take-over")); err != nil {
							cfg.Logger.Error("couldn't upgrade; going on", "error", err)
						}
					case <-ctx.Done():
						return
					}
				}
			}()
			return agent.Run(ctx, cfg)
		},
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = server.LocalHost
	}
	f := c.Flags()
	f.StringVar(&cfg.Host, "host", hostname, "name of this host in desired states (target.hosts)")
	f.StringVar(&cfg.Address, "address", "127.0.0.1", "where to listen when a target names only a port")
	f.StringVar(&tokenFile, "token-file", "", "file with the host's token: sluice agent-token prints it")
	f.StringVar(&cfg.TLSCA, "tls-ca", "", "authorities (PEM) that sign the server's certificate; default: the system's")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "certificate (PEM) of this host's name, in place of a token")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "key of the certificate (PEM)")
	f.StringVar(&cfg.TrustFile, "trust", "", "file with the public keys that may sign promotions")
	f.StringVar(&cfg.Isolation, "isolation", agent.Namespaces, "of services from the agent's files: namespaces, or none for trusted code only")
	f.StringArrayVar(&cfg.Hide, "hide", nil, "a folder or file that services shall not see (repeatable; the data folder and the token always)")
	f.StringArrayVar(&cfg.Own, "own", nil, "a file with a key of Sluice: hidden, and no service's secret (repeatable)")
	_ = f.MarkHidden("own") // for the agent that `up` starts
	f.StringArrayVar(&cfg.Show, "show", nil, "a path in a hidden or private folder that services may read (repeatable)")
	f.StringArrayVar(&cfg.Secrets, "secrets", nil, "a folder whose files services may be given as secrets, besides secrets in the data folder (repeatable)")
	f.BoolVar(&cfg.TakeOver, "take-over", false, "take over from the agent that works in the data folder, if one does")
	f.BoolVar(&cfg.StopOnExit, "stop-on-exit", false, "end the instances when the agent ends")
	f.BoolVar(&cfg.InsecureServer, "insecure-server", false, "send the token without TLS to another machine")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return c
}
