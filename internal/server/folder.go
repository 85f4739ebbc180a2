package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Folder is a data folder.
type Folder string

// Paths inside the folder.
func (f Folder) path(name string) string { return filepath.Join(string(f), name) }
func (f Folder) agent() string           { return f.path("agent") }
func (f Folder) infoFile() string        { return f.path("server.json") }
func (f Folder) agentFile() string       { return f.path("agent.json") }
func (f Folder) secrets() string         { return f.path("secrets") }
func (f Folder) promotionKey() string    { return f.path("promotion.pub") }

// prepare makes the folder, hidden from git and from other users.
func (f Folder) prepare() error {
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return fmt.Errorf("couldn't make the data folder: %w", err)
	}
	// It may have been there before, made by someone else or open to others.
	if err := ownedByUs(string(f)); err != nil {
		return err
	}
	if err := os.Chmod(string(f), 0o700); err != nil {
		return fmt.Errorf("couldn't close the data folder to other users: %w", err)
	}
	if err := os.MkdirAll(f.secrets(), 0o700); err != nil {
		return fmt.Errorf("couldn't make the folder for secrets: %w", err)
	}
	if err := os.WriteFile(f.path(".gitignore"), []byte("*\n"), 0o600); err != nil {
		return fmt.Errorf("couldn't write into the data folder: %w", err)
	}
	return nil
}

// ownedByUs refuses a folder that another user made: they may know its token and
// keys. Root would otherwise take one from anybody.
func ownedByUs(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("couldn't look at the data folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("the data folder %s belongs to user %d, who may know its token and keys: take one that is yours with --data, or chown it", dir, st.Uid)
	}
	return nil
}

// secret returns the random secret in a file, made now if there is none.
func (f Folder) secret(name string) (string, error) {
	path := f.path(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var raw [32]byte
		_, _ = rand.Read(raw[:]) // never fails: it ends the program instead
		if err := writeFile(path, []byte(hex.EncodeToString(raw[:])+"\n")); err != nil {
			return "", fmt.Errorf("couldn't write %s: %w", path, err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("couldn't read %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("couldn't read %s: %w", path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %v): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeFile writes a file whole or not at all, for its owner only.
func writeFile(path string, b []byte) error {
	err := replaceFile(path, b)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: free space there and try again", err)
	}
	return err
}

func replaceFile(path string, b []byte) error {
	t, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	if _, err := t.Write(b); err != nil {
		_ = t.Close()
		return err
	}
	if err := errors.Join(t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}

// Info says where a server is, for the commands of this machine.
type Info struct {
	Process
	URL     string    `json:"url"`
	Started time.Time `json:"started"`
}

// Process is a process that cannot be mistaken for a later one with its number.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, proc(5); 0 where unknown
}

func self() Process { return Process{PID: os.Getpid(), Start: startOf(os.Getpid())} }

// Alive reports whether the process runs still.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	if p.Start != 0 {
		return startOf(p.PID) == p.Start
	}
	proc, err := os.FindProcess(p.PID)
	return err == nil && proc.Signal(signalNone) == nil
}

// Signal sends a signal to the process, if it is that one still.
func (p Process) Signal(sig os.Signal) error {
	if !p.Alive() {
		return os.ErrProcessDone
	}
	proc, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	return proc.Signal(sig)
}

// Find reads where the server of a data folder is; false if none runs.
func (f Folder) Find() (Info, bool, error) {
	var i Info
	ok, err := read(f.infoFile(), &i)
	return i, ok && i.Alive(), err
}

// Token returns the access token of a data folder.
func (f Folder) Token() (string, error) {
	b, err := os.ReadFile(f.path("token"))
	if err != nil {
		return "", fmt.Errorf("couldn't read the access token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func read(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("couldn't read %s: %w; delete it if no server runs", path, err)
	}
	return true, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}
