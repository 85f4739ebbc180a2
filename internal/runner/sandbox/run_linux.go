package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/rights"
)

// The descriptors that the child finds.
const (
	configFd   = 3
	statusFd   = 4
	lifelineFd = 5
	firstTree  = 6
)

// grace is how long a killed sandbox may take to disappear before the caller
// goes on without it.
const grace = 10 * time.Second

// payload is the whole instruction of one sandbox.
type payload struct {
	Root    root     `json:"root"`
	Script  string   `json:"script"`
	Dir     string   `json:"dir"`
	Env     []string `json:"env"`
	Network bool     `json:"network"`
	Limits  Limits   `json:"limits"`
}

// status is a line that the child sends back.
type status struct {
	Error   string `json:"error,omitempty"` // setup failed
	Started bool   `json:"started,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	Code    int    `json:"code,omitempty"`
	Signal  string `json:"signal,omitempty"`
}

// capabilities that setup needs inside its own namespaces, all gone before the
// second exec: SETPCAP, NET_ADMIN, SYS_CHROOT, SYS_ADMIN, SYS_RESOURCE.
var setupCaps = []uintptr{unix.CAP_SETPCAP, unix.CAP_NET_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE}

// ownerID is outside every range that distributions, containers and systemd
// hand out, so that no other account shares it.
const ownerID = 1_900_000_000

// Owner returns the uid and gid, on the host, of a step: who must own what the
// step may write.
func Owner() (uid, gid int) { return rights.User(ownerID) }

// Run runs the script and copies what it prints, both streams in order, to out.
// A script that fails is not an error: see [Exit]. When ctx ends, everything in
// the sandbox is killed and the context's cause is returned. Run returns after
// the last byte was written to out; an error of out ends the script.
func Run(ctx context.Context, cfg Config, out io.Writer) (Exit, error) {
	if !hooked {
		return Exit{}, fmt.Errorf("%w: this program doesn't call sandbox.MaybeRun at the start of main", ErrSetup)
	}
	if err := ctx.Err(); err != nil {
		return Exit{}, context.Cause(ctx)
	}
	r, err := buildRoot(cfg)
	if err != nil {
		return Exit{}, err
	}
	trees, err := openTrees(&r)
	defer closeAll(trees)
	if err != nil {
		return Exit{}, err
	}
	conf, err := configFile(payload{Root: r, Script: cfg.Script, Dir: cfg.Dir, Env: cfg.Env, Network: cfg.Network, Limits: cfg.Limits.withDefaults()})
	if err != nil {
		return Exit{}, err
	}
	defer conf.Close()

	var pipes [6]*os.File // output, status, lifeline: read and write ends
	defer func() { closeAll(pipes[:]) }()
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			return Exit{}, fmt.Errorf("%w: %w", ErrSetup, err)
		}
	}
	outR, outW, statR, statW, lifeR := pipes[0], pipes[1], pipes[2], pipes[3], pipes[4]

	cmd := exec.Command("/proc/self/exe", hiddenArg, "setup")
	cmd.Env = []string{"GOMAXPROCS=2"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = outW, outW
	cmd.ExtraFiles = append([]*os.File{conf, statW, lifeR}, trees...)
	cmd.SysProcAttr = attributes(cfg.Network)
	if err := cmd.Start(); err != nil {
		return Exit{}, fmt.Errorf("%w: couldn't make namespaces: %w", ErrSetup, err)
	}
	closeAll([]*os.File{outW, statW, lifeR})

	copied, told := make(chan error, 1), make(chan []status, 1)
	go func() { copied <- drain(out, outR, func() { kill(cmd) }) }()
	go func() { told <- readStatus(statR) }()
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			kill(cmd)
			// A process that the kernel cannot end must not hold the caller.
			t := time.NewTimer(grace)
			defer t.Stop()
			select {
			case <-t.C:
				outR.Close()
				statR.Close()
			case <-ended:
			}
		case <-ended:
		}
	}()
	copyErr, said := <-copied, <-told
	close(ended)
	waitErr := cmd.Wait()

	var end *status
	for i, s := range said {
		if s.Error != "" {
			return Exit{}, fmt.Errorf("%w: %s", ErrSetup, s.Error)
		}
		if s.Ended {
			end = &said[i]
		}
	}
	switch {
	case end != nil && copyErr == nil:
		return Exit{Code: end.Code, Signal: end.Signal}, nil
	case ctx.Err() != nil:
		return Exit{Code: -1, Signal: "SIGKILL"}, context.Cause(ctx)
	case copyErr != nil:
		return Exit{Code: -1, Signal: "SIGKILL"}, fmt.Errorf("couldn't keep the output: %w", copyErr)
	case len(said) == 0:
		return Exit{}, fmt.Errorf("%w: its process ended at once (%v)", ErrSetup, waitErr)
	default:
		// Pid 1 was killed from outside, for instance for want of memory.
		return Exit{Code: -1, Signal: "SIGKILL"}, nil
	}
}

// attributes are how the child is cloned.
func attributes(network bool) *syscall.SysProcAttr {
	uid, gid := Owner()
	root := os.Geteuid() == 0
	a := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: UID, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: GID, HostID: gid, Size: 1}},
		AmbientCaps: setupCaps,
		Setsid:      true,
	}
	if !network {
		a.Cloneflags |= unix.CLONE_NEWNET
	}
	if root {
		// Only root may give up its groups and take another uid.
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: UID, Gid: GID}
	}
	return a
}

// openTrees opens the host's paths with root's rights, because the child has
// none: a data folder below /root or in a private home is closed to it. Without
// the right to do so the paths are the caller's own, and the child opens them.
func openTrees(r *root) ([]*os.File, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var trees []*os.File
	for i := range r.Binds {
		b := &r.Binds[i]
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if errors.Is(err, unix.EPERM) {
			return trees, nil
		}
		if err != nil {
			return trees, fmt.Errorf("%w: couldn't open %s: %w", ErrSetup, b.Source, err)
		}
		b.Fd = firstTree + len(trees)
		trees = append(trees, os.NewFile(uintptr(fd), b.Source))
	}
	return trees, nil
}

// configFile holds the payload in memory: it has the step's environment, which
// must not be on a disk, in an argument or in /proc.
func configFile(p payload) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	fd, err := unix.MemfdCreate("sluice-sandbox", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	f := os.NewFile(uintptr(fd), "sluice-sandbox")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return f, nil
}

// readStatus reads what the child has to say, bounded.
func readStatus(r io.Reader) []status {
	var all []status
	scan := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for scan.Scan() {
		var s status
		if json.Unmarshal(scan.Bytes(), &s) == nil {
			all = append(all, s)
		}
	}
	return all
}

// kill ends pid 1 of the namespace, and so all of it.
func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() } // already gone is fine

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // closing twice is harmless
		}
	}
}
