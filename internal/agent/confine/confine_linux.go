package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/rights"
)

// View is what one service sees.
type View struct {
	Hide     []string // folders and files that do not exist for it
	Show     []string // below a hidden or private folder, and visible all the same, read only
	Dir      string   // its release and working directory: visible, read only
	Writable []string // its own folders
	Key      string   // who it is
	Users    *Users   // that give it its own where the agent is root
}

// payload tells the stage what to do. It holds no secret: those are in the
// environment, which the stage hands on.
type payload struct {
	Covers []cover `json:"covers"`
	Shows  []show  `json:"shows"`
	Dir    string  `json:"dir"`
	Run    string  `json:"run"`
}

type cover struct {
	Path string `json:"path"`
	File bool   `json:"file"`
}

type show struct {
	Path     string `json:"path"`
	File     bool   `json:"file"`
	Writable bool   `json:"writable"`
	Fd       int    `json:"fd"` // a detached mount that the agent opened, or -1
}

// The descriptors that the stage finds.
const (
	payloadFd = 3
	firstTree = 4
)

// Command returns a command that runs /bin/sh -c run in v, in a session of its
// own. done must be called when it was started, or not.
func Command(v View, run string, env []string) (cmd *exec.Cmd, done func(), err error) {
	uid, gid, err := v.Users.Of(v.Key)
	if err != nil {
		return nil, nil, err
	}
	return commandAs(uid, gid, v, run, env)
}

func commandAs(uid, gid int, v View, run string, env []string) (cmd *exec.Cmd, done func(), err error) {
	p, err := plan(v, uid, gid)
	if err != nil {
		return nil, nil, err
	}
	p.Run = run
	var files []*os.File
	done = func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	trees, err := openTrees(&p)
	files = append(files, trees...)
	if err != nil {
		return nil, nil, err
	}
	conf, err := payloadFile(p)
	if err != nil {
		return nil, nil, err
	}
	files = append(files, conf)

	cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{stageName}, Env: env, Dir: "/"}
	cmd.ExtraFiles = append([]*os.File{conf}, trees...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP},
	}
	if os.Geteuid() == 0 { // only root may take another user and give up its groups
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd, done, nil
}

// plan decides what is covered and what is shown below it.
func plan(v View, uid, gid int) (payload, error) {
	var p payload
	add := func(path string, writable bool) error {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fmt.Errorf("couldn't find what a service needs: %w", err)
		}
		info, err := os.Stat(real)
		if err != nil {
			return fmt.Errorf("couldn't find what a service needs: %w", err)
		}
		p.Shows = append(p.Shows, show{Path: real, File: !info.IsDir(), Writable: writable, Fd: -1})
		// A cover on the way makes a private folder passable, and empty.
		if closed := firstClosed(real, uid, gid); closed != "" {
			p.Covers = append(p.Covers, cover{Path: closed})
		}
		return nil
	}
	for _, path := range v.Hide {
		real, err := filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return p, fmt.Errorf("couldn't hide %s: %w", path, err)
		}
		info, err := os.Stat(real)
		if err != nil {
			return p, fmt.Errorf("couldn't hide %s: %w", path, err)
		}
		if real == "/" {
			return p, errors.New("couldn't hide /: all that a service needs is there")
		}
		p.Covers = append(p.Covers, cover{Path: real, File: !info.IsDir()})
	}
	if v.Dir != "" {
		real, err := filepath.EvalSymlinks(v.Dir)
		if err != nil {
			return p, fmt.Errorf("couldn't find the release's files: %w", err)
		}
		p.Dir = real
		if err := add(v.Dir, false); err != nil {
			return p, err
		}
	}
	for _, path := range v.Writable {
		if err := add(path, true); err != nil {
			return p, err
		}
	}
	for _, path := range v.Show {
		if err := add(path, false); err != nil {
			return p, err
		}
	}
	// The upper ones first; what lies below one is covered with it.
	slices.SortFunc(p.Covers, func(a, b cover) int { return strings.Compare(a.Path, b.Path) })
	var top []cover
	for _, c := range p.Covers {
		if !slices.ContainsFunc(top, func(t cover) bool { return within(c.Path, t.Path) }) {
			top = append(top, c)
		}
	}
	p.Covers = top
	slices.SortFunc(p.Shows, func(a, b show) int { return strings.Compare(a.Path, b.Path) })
	return p, nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// firstClosed returns the uppermost folder above path that the user may not pass.
// As someone who is not root the agent itself could not have come here.
func firstClosed(path string, uid, gid int) string {
	if os.Geteuid() != 0 || uid == 0 {
		return ""
	}
	at := ""
	for _, name := range strings.Split(strings.Trim(filepath.Dir(path), "/"), "/") {
		at += "/" + name
		info, err := os.Stat(at)
		if err != nil {
			return ""
		}
		need := fs.FileMode(0o001)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case int(st.Uid) == uid:
				need = 0o100
			case int(st.Gid) == gid:
				need = 0o010
			}
		}
		if info.Mode().Perm()&need == 0 {
			return at
		}
	}
	return ""
}

// openTrees opens what is shown with root's rights: the service's user has none
// on the way there. Without the right to do so the stage opens them itself.
func openTrees(p *payload) ([]*os.File, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var trees []*os.File
	for i := range p.Shows {
		s := &p.Shows[i]
		fd, err := openTree(s.Path)
		if errors.Is(err, unix.EPERM) {
			return trees, nil
		}
		if err != nil {
			return trees, fmt.Errorf("couldn't show %s to a service: %w", s.Path, err)
		}
		s.Fd = firstTree + len(trees)
		trees = append(trees, os.NewFile(uintptr(fd), s.Path))
	}
	return trees, nil
}

func openTree(path string) (int, error) {
	return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

func payloadFile(p payload) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("couldn't encode what a service sees: %w", err)
	}
	fd, err := unix.MemfdCreate(stageName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("couldn't start a service: %w", err)
	}
	f := os.NewFile(uintptr(fd), stageName)
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("couldn't start a service: %w", err)
	}
	return f, nil
}

// Probe starts a whole confined process that looks for a hidden file. The error
// says what the host forbids.
func Probe(dir string) error {
	probe, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return fmt.Errorf("couldn't try to isolate a service: %w", err)
	}
	defer os.RemoveAll(probe)
	for _, name := range []string{"hidden", "shown"} {
		if err := os.Mkdir(filepath.Join(probe, name), 0o700); err != nil {
			return fmt.Errorf("couldn't try to isolate a service: %w", err)
		}
	}
	shown, hidden := filepath.Join(probe, "shown"), filepath.Join(probe, "hidden", "file")
	if err := os.WriteFile(hidden, nil, 0o600); err != nil {
		return fmt.Errorf("couldn't try to isolate a service: %w", err)
	}
	uid, gid := rights.User(probeUser)
	if uid != os.Geteuid() {
		if err := os.Chown(shown, uid, gid); err != nil {
			return fmt.Errorf("couldn't try to isolate a service: %w", err)
		}
	}
	cmd, done, err := commandAs(uid, gid, View{Hide: []string{probe}, Dir: shown}, `test ! -e "$HIDDEN"`, []string{"PATH=/usr/bin:/bin", "HIDDEN=" + hidden})
	if err != nil {
		return err
	}
	defer done()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("couldn't isolate a service: %w: %.300s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
