package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/rights"
)

// hiddenArg is the first argument that turns this binary into a sandbox.
const hiddenArg = "__sandbox"

// hooked says that this program calls MaybeRun; without that a child would be
// the program itself once more.
var hooked bool

// MaybeRun must be called first thing in main and in TestMain. In a sandbox's
// child it does the child's work and does not return; otherwise it only
// remembers that the program can make sandboxes.
func MaybeRun() {
	if len(os.Args) != 3 || os.Args[1] != hiddenArg {
		hooked = true
		return
	}
	var err error
	switch os.Args[2] {
	case "setup":
		err = setup()
	case "init":
		err = initMain()
	default:
		err = errors.New("unknown stage")
	}
	tell(status{Error: err.Error()})
	fmt.Fprintln(os.Stderr, "sluice: __sandbox is internal and can't be called by hand:", err)
	os.Exit(1)
}

// tell sends one line to the caller; nobody listening is the caller's matter.
func tell(s status) {
	b, _ := json.Marshal(s) // a struct of strings and numbers has no error
	_, _ = unix.Write(statusFd, append(b, '\n'))
}

// config stays reachable: a file that the garbage collector takes is closed, and
// the next stage reads the same descriptor.
var config *os.File

func readPayload() (payload, error) {
	var p payload
	config = os.NewFile(configFd, "config")
	if config == nil {
		return p, errors.New("no instructions")
	}
	b, err := io.ReadAll(io.NewSectionReader(config, 0, 64<<20))
	if err != nil {
		return p, fmt.Errorf("couldn't read the instructions: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("couldn't read the instructions: %w", err)
	}
	return p, nil
}

// setup builds the root, gives up every right and becomes init. It stays on one
// thread: rights belong to threads, and exec keeps those of the caller.
func setup() error {
	runtime.LockOSThread()
	p, err := readPayload()
	if err != nil {
		return err
	}
	// Descriptors that the caller itself inherited go no further than here.
	if err := unix.CloseRange(firstTree, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("couldn't close descriptors: %w", err)
	}
	exe, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("couldn't open this program: %w", err)
	}
	_, _ = unix.KeyctlJoinSessionKeyring("") // the host's session keys stay outside; kernels without keys have none
	if err := buildAndPivot(&p.Root); err != nil {
		return err
	}
	if !p.Network {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("build")); err != nil {
		return fmt.Errorf("couldn't set the host name: %w", err)
	}
	// More user namespaces would give the step fresh capabilities over them.
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return fmt.Errorf("couldn't forbid nested namespaces: %w", err)
	}
	if err := limit(p.Limits); err != nil {
		return err
	}
	if err := rights.Drop(); err != nil {
		return err
	}
	return execFd(exe, []string{"sluice", hiddenArg, "init"}, []string{"GOMAXPROCS=2"})
}

// buildAndPivot makes the root on a tmpfs and moves into it.
func buildAndPivot(r *root) error {
	for i := range r.Binds {
		b := &r.Binds[i]
		if b.Fd >= 0 {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("couldn't open %s: %w", b.Source, err)
		}
		b.Fd = fd
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("couldn't separate the mounts: %w", err)
	}
	base := ""
	for _, dir := range []string{"/tmp", "/mnt", "/var"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			base = dir
			break
		}
	}
	if base == "" {
		return errors.New("the host has none of /tmp, /mnt and /var")
	}
	if err := unix.Mount("root", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("couldn't mount a root: %w", err)
	}
	if err := os.Chdir(base); err != nil {
		return fmt.Errorf("couldn't enter the root: %w", err)
	}
	for _, dir := range r.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// Before the host's /proc is gone: the kernel gives a new one only to who
	// sees one already.
	if err := unix.Mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("couldn't mount /proc (inside a container it must be started with an unmasked /proc): %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("couldn't pivot: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("couldn't leave the host's files: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fill(r)
}

// fill puts everything in place. The host's files are out of reach by now.
func fill(r *root) error {
	for path, content := range r.Files {
		if err := os.WriteFile("/"+path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount("shm", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=25%"); err != nil {
		return fmt.Errorf("couldn't mount /dev/shm: %w", err)
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("couldn't mount /dev/pts: %w", err)
	}
	for _, b := range r.Binds {
		if err := place(b); err != nil {
			return err
		}
	}
	for path, to := range r.Links {
		if err := os.MkdirAll(filepath.Dir("/"+path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(to, "/"+path); err != nil {
			return err
		}
	}
	for _, path := range r.Cover {
		if err := unix.Mount("hidden", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, "mode=0755,size=4k"); err != nil {
			return fmt.Errorf("couldn't hide %s: %w", path, err)
		}
	}
	return rights.Protect("/", 0, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

func place(b bind) error {
	if b.Dir {
		if err := os.MkdirAll(b.Target, 0o755); err != nil {
			return err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(b.Target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(b.Target, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	if err := unix.MoveMount(b.Fd, "", unix.AT_FDCWD, b.Target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
		return fmt.Errorf("couldn't show %s: %w", b.Target, err)
	}
	unix.Close(b.Fd)
	attr := uint64(unix.MOUNT_ATTR_NOSUID)
	if !b.Device {
		attr |= unix.MOUNT_ATTR_NODEV
	}
	if !b.Writable {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return rights.Protect(b.Target, unix.AT_RECURSIVE, attr)
}

// loopbackUp starts the only interface that there is.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("couldn't start the loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("couldn't start the loopback: %w", err)
	}
	return nil
}

// limit lowers what each process may use; a limit that is lower already stays.
func limit(l Limits) error {
	for res, want := range map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_NPROC: l.Processes,
		unix.RLIMIT_NOFILE: l.Files, unix.RLIMIT_FSIZE: l.FileBytes,
	} {
		var have unix.Rlimit
		if err := unix.Getrlimit(res, &have); err != nil {
			return fmt.Errorf("couldn't read a limit: %w", err)
		}
		n := min(want, have.Max)
		if err := unix.Setrlimit(res, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("couldn't set a limit: %w", err)
		}
	}
	// When memory is short, a step goes before the control plane and its services.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0); err != nil {
		return fmt.Errorf("couldn't set the memory priority: %w", err)
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 5) // a build gives way to live traffic; not vital
	unix.Umask(0o022)
	return nil
}

// execFd replaces this process by the program behind fd, which no longer has a
// path.
func execFd(fd int, args, env []string) error {
	argv, err := pointers(args)
	if err != nil {
		return err
	}
	envv, err := pointers(env)
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("couldn't start again without rights: %w", errno)
}

func pointers(list []string) ([]*byte, error) {
	var all []*byte
	for _, s := range list {
		if strings.ContainsRune(s, 0) {
			return nil, errors.New("zero byte in an argument")
		}
		b := append([]byte(s), 0)
		all = append(all, &b[0])
	}
	return append(all, nil), nil
}
