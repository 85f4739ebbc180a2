package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/rights"
)

// stageName is the first argument that makes this binary a stage.
const stageName = "sluice-service"

// exitSetup is how a service ends that could not be confined.
const exitSetup = 126

func init() {
	if len(os.Args) == 1 && os.Args[0] == stageName {
		// Rights belong to threads, and exec keeps those of the caller: this runs on
		// the main thread, which init functions never leave.
		fmt.Fprintln(os.Stderr, "sluice: the service was not started:", stage())
		os.Exit(exitSetup)
	}
}

// stage becomes the service; it returns only why it can't.
func stage() error {
	conf := os.NewFile(payloadFd, "payload")
	if conf == nil {
		return errors.New("this is internal and can't be called by hand")
	}
	b, err := io.ReadAll(io.NewSectionReader(conf, 0, 16<<20))
	if err != nil {
		return fmt.Errorf("couldn't read what it sees (this is internal and can't be called by hand): %w", err)
	}
	var p payload
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read what it sees (this is internal and can't be called by hand): %w", err)
	}
	if err := unix.CloseRange(payloadFd, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("couldn't close descriptors: %w", err)
	}
	if err := arrange(p); err != nil {
		return err
	}
	if err := os.Chdir(p.Dir); err != nil {
		return fmt.Errorf("couldn't enter the release: %w", err)
	}
	if err := rights.Drop(); err != nil {
		return err
	}
	return fmt.Errorf("couldn't run /bin/sh: %w", unix.Exec("/bin/sh", []string{"sh", "-c", p.Run}, os.Environ()))
}

// arrange covers what is hidden, and then puts what is shown in its place.
func arrange(p payload) error {
	for i := range p.Shows {
		s := &p.Shows[i]
		if s.Fd >= 0 {
			continue
		}
		var err error
		if s.Fd, err = openTree(s.Path); err != nil {
			return fmt.Errorf("couldn't show %s: %w", s.Path, err)
		}
	}
	for _, c := range p.Covers {
		if c.File {
			if err := unix.Mount("/dev/null", c.Path, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("couldn't hide %s: %w", c.Path, err)
			}
			continue
		}
		if err := unix.Mount("hidden", c.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=256k"); err != nil {
			return fmt.Errorf("couldn't hide %s: %w", c.Path, err)
		}
	}
	for _, s := range p.Shows {
		covered := slices.ContainsFunc(p.Covers, func(c cover) bool { return within(s.Path, c.Path) })
		if err := s.place(covered); err != nil {
			return err
		}
	}
	for _, c := range p.Covers {
		if !c.File {
			if err := rights.Protect(c.Path, 0, unix.MOUNT_ATTR_RDONLY); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s show) place(covered bool) error {
	if covered {
		dir := s.Path
		if s.File {
			dir = filepath.Dir(s.Path)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("couldn't show %s: %w", s.Path, err)
		}
		if s.File {
			f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("couldn't show %s: %w", s.Path, err)
			}
			_ = f.Close()
		}
	}
	if err := unix.MoveMount(s.Fd, "", unix.AT_FDCWD, s.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("couldn't show %s: %w", s.Path, err)
	}
	_ = unix.Close(s.Fd)
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !s.Writable {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return rights.Protect(s.Path, unix.AT_RECURSIVE, attr)
}
