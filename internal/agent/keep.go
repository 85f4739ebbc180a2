package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// kept is what the agent remembers of one service, in one file.
type kept struct {
	Version int          `json:"version"` // 1
	Desired wire.Desired `json:"desired"`
	// Serving are the revisions that traffic goes to, with the weights in effect.
	// While a desired revision can't serve yet they differ from the desired ones.
	Serving []wire.Revision `json:"serving"`
	// Granted is how far candidates may be raised without contact; see inEffect.
	Granted map[release.ID]int `json:"granted,omitempty"`
}

func keptPath(dir string, k release.Key) string {
	return filepath.Join(dir, desiredDir, k.Project+"."+k.Service+"."+k.Environment+".json")
}

// keep makes k durable. On a full disk it gives up the reserve: a rollback must be
// possible also then.
func keep(dir string, k kept) error {
	b, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("couldn't encode the desired state: %w", err)
	}
	path := keptPath(dir, k.Desired.Key)
	err = writeFile(path, b)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		_ = os.Remove(reservePath(dir))
		err = writeFile(path, b)
	}
	if err != nil {
		return fmt.Errorf("couldn't keep the desired state of %s: %w", k.Desired.Key, err)
	}
	return nil
}

// writeFile replaces a file so that after a crash it is the old or the new one.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// load reads what an earlier agent remembered. A file that can't be read is an
// error: to forget a generation would let an old one in again.
func load(dir string) ([]kept, error) {
	files, err := filepath.Glob(filepath.Join(dir, desiredDir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("couldn't list the desired states: %w", err)
	}
	var out []kept
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("couldn't read a desired state: %w", err)
		}
		var k kept
		if err := json.Unmarshal(b, &k); err != nil {
			return nil, fmt.Errorf("couldn't read the desired state %s: %w", path, err)
		}
		if k.Version != 1 {
			return nil, fmt.Errorf("couldn't read the desired state %s: version %d is newer than this build", path, k.Version)
		}
		if want := keptPath(dir, k.Desired.Key); want != path {
			return nil, fmt.Errorf("couldn't read the desired state %s: it is of %s", path, k.Desired.Key)
		}
		out = append(out, k)
	}
	return out, nil
}

const reserve = 1 << 20

func reservePath(dir string) string { return filepath.Join(dir, "reserve") }

// makeReserve occupies some disk that keep can give up. That it fails is no error:
// then there is none.
func makeReserve(dir string) {
	path := reservePath(dir)
	if info, err := os.Stat(path); err == nil && info.Size() == reserve {
		return
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("reserve\n", reserve/8)), 0o600); err != nil {
		_ = os.Remove(path)
	}
}
