package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/evidence"
)

const (
	roleEnv     = "AGENTTEST_ROLE"
	roleService = "service"
	roleAgent   = "agent"
)

// Main runs the process as a service or an agent if it was started as one, and
// then never returns.
func Main() {
	switch os.Getenv(roleEnv) {
	case roleService:
		os.Exit(service())
	case roleAgent:
		os.Exit(agentProcess())
	}
}

// service behaves as MODE says:
//
//	(empty)  answers VERSION
//	exit     exits at once
//	never    runs and is never healthy
//	held     is healthy once it was asked for /well
//
// Any path is answered with the version; besides these:
//
//	/slow     after 300 ms
//	/well     nothing: see held
//	/begun    how many requests for /slow came so far
//	/fail     500
//	/exit     the process exits without an answer
//	/stream   ten lines, 20 ms apart
//	/pid      the process's id
//	/env?k=K  the variable
//	/read?p=P the file at P, or why not
func service() int {
	mode, version := os.Getenv("MODE"), os.Getenv("VERSION")
	fmt.Println("starting", version, "token", os.Getenv("TOKEN"))
	if mode == "exit" {
		fmt.Fprintln(os.Stderr, "cannot start: the configuration is missing")
		return 3
	}
	var requests, slow atomic.Int64
	var well atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if mode == "never" || mode == "held" && !well.Load() {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "requests_total %d\n", requests.Load())
	})
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) { well.Store(true) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slow.Add(1)
		time.Sleep(300 * time.Millisecond)
		_, _ = io.WriteString(w, version)
	})
	mux.HandleFunc("/begun", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, slow.Load()) })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { http.Error(w, version, 500) })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(4) })
	mux.HandleFunc("/pid", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, os.Getenv(r.URL.Query().Get("k")))
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for i := range 10 {
			fmt.Fprintln(w, i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(r.URL.Query().Get("p"))
		if err != nil {
			b = []byte(err.Error())
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if b, err := strconv.Atoi(os.Getenv("LOG_EACH")); err == nil {
			fmt.Println(string(make([]byte, b)))
		}
		_, _ = io.WriteString(w, version)
	})
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s := &http.Server{Handler: mux}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		<-ctx.Done()
		// As most services do: idle connections are closed at once, open requests end.
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(drain)
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		return 1
	}
	return 0
}

// settings are how StartAgent tells the process who it is.
type settings struct {
	Server, Host, DataDir string
	Keys                  []evidence.PublicKey
	Options
}

// Options of an agent that most tests leave alone.
type Options struct {
	Hide      []string
	Secrets   []string
	Isolation string
	TakeOver  bool
}

// Agent is an agent in a process of its own.
type Agent struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// StartAgent starts an agent for a host of p. It is killed with the test; the
// services that it leaves are ended.
func (p *Plane) StartAgent(t testing.TB, host, dataDir string) *Agent {
	t.Helper()
	return p.StartAgentWith(t, host, dataDir, Options{})
}

// StartAgentWith is StartAgent with options.
func (p *Plane) StartAgentWith(t testing.TB, host, dataDir string, o Options) *Agent {
	t.Helper()
	b, err := json.Marshal(settings{p.URL, host, dataDir, p.Keys.Public(), o})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t), "-test.run=^$")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleAgent, "AGENTTEST_SETTINGS="+string(b), "GORACE=halt_on_error=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &Agent{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(a.done)
	}()
	t.Cleanup(func() {
		a.Kill()
		if err := agent.StopAll(context.Background(), dataDir); err != nil {
			t.Errorf("couldn't end the services: %v", err)
		}
	})
	return a
}

// Kill ends the agent by SIGKILL and waits.
func (a *Agent) Kill() {
	_ = a.cmd.Process.Kill()
	<-a.done
}

// PID returns the agent's process.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Done is closed when the agent has ended.
func (a *Agent) Done() <-chan struct{} { return a.done }

// Terminate ends the agent by SIGTERM and waits.
func (a *Agent) Terminate() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	<-a.done
}

func agentProcess() int {
	var s settings
	if err := json.Unmarshal([]byte(os.Getenv("AGENTTEST_SETTINGS")), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	level := slog.LevelError + 1
	if os.Getenv("AGENTTEST_VERBOSE") != "" {
		level = slog.LevelDebug
	}
	program, err := os.Executable() // services are this program: it may be in a private folder
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	err = agent.Run(ctx, agent.Config{
		Server: s.Server, Token: Token, Host: s.Host, DataDir: s.DataDir, TrustKeys: s.Keys,
		Hide: s.Hide, Secrets: s.Secrets, Show: []string{program}, Isolation: s.Isolation, TakeOver: s.TakeOver,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
