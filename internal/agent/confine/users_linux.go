package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sluicehq/sluice/internal/rights"
)

// Users outside every range that distributions, containers and systemd hand out.
// Build steps have one of their own beside them; see package sandbox.
const (
	firstUser = 1_900_100_000
	users     = 100_000
	probeUser = firstUser + users // of no service
)

// maxServices bounds how many services one agent gives users to, over its whole
// life: a user is never given to another service, which could read what the first
// has left on the host.
const maxServices = 10_000

// maxUsersFile bounds the file of them, in bytes.
const maxUsersFile = 8 << 20

// Users gives each service of one agent a user of its own, and the same again. It is
// safe for concurrent use by one process.
//
// A service begins with a user that is a hash of its key. That was all before there
// was a file, so what such a service owns on the host stays its own; where two keys
// have one hash, the later one gets the next that is free.
type Users struct {
	path string

	mu    sync.Mutex
	byKey map[string]int // offset from firstUser
	taken map[int]bool
}

// usersFile is users.json.
type usersFile struct {
	Version int            `json:"version"`
	Users   map[string]int `json:"users"` // offset from 1900100000 by service
}

// OpenUsers reads which users services have. The file is made when the first gets
// one.
func OpenUsers(path string) (*Users, error) {
	u := &Users{path: path}
	if err := u.load(); err != nil {
		return nil, err
	}
	return u, nil
}

// load takes what the file says in place of what is known, which stays where the file
// can't be read.
func (u *Users) load() error {
	f, err := os.Open(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		u.byKey, u.taken = map[string]int{}, map[int]bool{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("couldn't read which user each service has: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUsersFile+1))
	if err == nil && len(b) > maxUsersFile {
		err = fmt.Errorf("it has more than %d bytes", maxUsersFile)
	}
	if err == nil {
		err = u.decode(b)
	}
	if err != nil {
		return fmt.Errorf("couldn't read which user each service has: %s: %w; put a copy from before in its place, or remove it when no service runs and none owns files here", u.path, err)
	}
	return nil
}

func (u *Users) decode(b []byte) error {
	var f usersFile
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if f.Version != 1 {
		return fmt.Errorf("version %d is not known to this build", f.Version)
	}
	if len(f.Users) > maxServices {
		return fmt.Errorf("%d services are more than %d", len(f.Users), maxServices)
	}
	byKey, taken := map[string]int{}, map[int]bool{}
	for key, n := range f.Users {
		if n < 0 || n >= users {
			return fmt.Errorf("%.200q has user %d, which is no service's", key, n)
		}
		if taken[n] {
			return fmt.Errorf("%.200q has the user of another service", key)
		}
		byKey[key], taken[n] = n, true
	}
	u.byKey, u.taken = byKey, taken
	return nil
}

// Of returns the uid and gid of a service. A new one is on disk before it is
// returned.
func (u *Users) Of(key string) (uid, gid int, err error) {
	if u == nil || key == "" {
		return 0, 0, errors.New("couldn't find a service's user: nobody keeps them")
	}
	if os.Geteuid() != 0 {
		uid, gid = rights.User(firstUser) // one's own: there is no other to give
		return uid, gid, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n, ok := u.byKey[key]
	if !ok {
		if n, err = u.give(key); err != nil {
			return 0, 0, err
		}
	}
	uid, gid = rights.User(firstUser + n)
	return uid, gid, nil
}

// give gives a new service the first free user from its hash on. The file is read
// again: in a handover another agent may have given one meanwhile.
func (u *Users) give(key string) (int, error) {
	if err := u.load(); err != nil {
		return 0, err
	}
	if n, ok := u.byKey[key]; ok {
		return n, nil
	}
	if len(u.byKey) >= maxServices {
		return 0, fmt.Errorf("couldn't give %s a user of its own: this agent has given %d, the most that it gives; %s names the services: remove those that are gone for good, with what they left on the host, while no agent runs", key, maxServices, u.path)
	}
	n := preferred(key)
	for u.taken[n] {
		n = (n + 1) % users
	}
	u.byKey[key], u.taken[n] = n, true
	if err := u.save(); err != nil {
		delete(u.byKey, key)
		delete(u.taken, n)
		return 0, fmt.Errorf("couldn't give %s a user of its own: %w", key, err)
	}
	return n, nil
}

// preferred is a service's user where no other has it.
func preferred(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % users)
}

// save writes the file whole or not at all.
func (u *Users) save() error {
	b, err := json.Marshal(usersFile{Version: 1, Users: u.byKey})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(u.path), filepath.Base(u.path)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(b, '\n')); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), u.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(u.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
