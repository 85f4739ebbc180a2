package storetest

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluicehq/sluice/internal/machinetest"
)

// Postgres returns the URL of an empty database of its own on a real PostgreSQL
// server, which is started once for the test binary and ends with it, however it
// ends. The server listens on a Unix socket only.
//
// Without PostgreSQL's programs the test is skipped, or fails if SLUICE_REQUIRE
// names postgres.
func Postgres(t testing.TB) string {
	t.Helper()
	startOnce.Do(func() { shared, startErr = startPostgres() })
	if startErr != nil {
		machinetest.Lacks(t, machinetest.Postgres, "NOT TESTED ON POSTGRESQL: %v", startErr)
	}
	name := fmt.Sprintf("t%d", databases.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := shared.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0 STRATEGY wal_log"); err != nil {
		t.Fatalf("couldn't create a database: %v", err)
	}
	return shared.url(name)
}

var (
	startOnce sync.Once
	shared    *server
	startErr  error
	databases atomic.Int64
)

type server struct {
	dir  string
	user string
	stop io.Closer // held open as long as this process lives
}

func (s *server) url(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User(s.user), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}).String()
}

func (s *server) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// findPostgres returns the folder of the newest server's programs.
func findPostgres() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if len(found) > 0 {
		return filepath.Dir(found[0]), nil
	}
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p), nil
	}
	return "", fmt.Errorf("no initdb in /usr/lib/postgresql/*/bin or PATH; install the package postgresql")
}

func version(initdb string) int {
	n, _ := strconv.Atoi(strings.Split(initdb, "/")[4])
	return n
}

// supervise starts the server as its child and stops it, by its pid, when
// standard input ends: that is when the test binary does, even if it is killed.
const supervise = `"$1" -D "$2/data" -k "$2" -c listen_addresses= -c shared_buffers=32MB -c max_connections=200 -c fsync="$3" -c synchronous_commit=off -c autovacuum=off -c max_wal_size=8GB -c checkpoint_timeout=1h >>"$2/log" 2>&1 </dev/null &
pid=$!
read -r _
kill -QUIT $pid
wait $pid
rm -rf "$2"`

func startPostgres() (*server, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sluice-pg-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	attr := &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests, not for the server
	if os.Getuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			who, err = user.Lookup("nobody")
		}
		if err != nil {
			return nil, fmt.Errorf("PostgreSQL doesn't run as root, and there is no user postgres or nobody: %w", err)
		}
		uid, err := strconv.Atoi(who.Uid)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.Atoi(who.Gid)
		if err != nil {
			return nil, err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		s.user = who.Username
	} else {
		who, err := user.Current()
		if err != nil {
			return nil, err
		}
		s.user = who.Username
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", s.user, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("initdb failed: %w\n%s", err, out)
	}
	fsync := "off" // nobody pulls the plug on a test
	if os.Getenv("SLUICE_PG_FSYNC") != "" {
		fsync = "on"
	}
	sh := exec.Command("/bin/sh", "-c", supervise, "sh", filepath.Join(bin, "postgres"), dir, fsync)
	sh.SysProcAttr, sh.Dir = attr, "/"
	stop, err := sh.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stop = stop
	if err := sh.Start(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = s.exec(ctx, "SELECT 1")
		cancel()
		if err == nil {
			return s, nil
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			_ = stop.Close()
			_ = sh.Wait()
			return nil, fmt.Errorf("PostgreSQL didn't start: %w\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
