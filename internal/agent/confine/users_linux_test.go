package confine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/rights"
)

// rooted skips where there is only one user to give.
func rooted(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || !rights.Exists(firstUser) {
		t.Skip("SKIPPED: only a root that has these users gives services their own: run the tests as root")
	}
}

// twins are two keys with the same hash.
func twins(t *testing.T) (a, b string) {
	t.Helper()
	seen := map[int]string{}
	for i := range 10 * users {
		key := fmt.Sprintf("default/service-%d/production", i)
		if other, ok := seen[preferred(key)]; ok {
			return other, key
		}
		seen[preferred(key)] = key
	}
	t.Fatal("no two keys have the same hash")
	return "", ""
}

func open(t *testing.T, path string) *Users {
	t.Helper()
	u, err := OpenUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func of(t *testing.T, u *Users, key string) int {
	t.Helper()
	uid, gid, err := u.Of(key)
	if err != nil || uid != gid {
		t.Fatalf("%s: %d, %d, %v", key, uid, gid, err)
	}
	return uid
}

// Two services whose keys have one hash have two users, and the same ones after a
// restart, whichever asks first then.
func TestUsersAreOneService(t *testing.T) {
	rooted(t)
	a, b := twins(t)
	path := filepath.Join(t.TempDir(), "users.json")
	u := open(t, path)
	first, second := of(t, u, a), of(t, u, b)
	if first == second || first == 0 || second == 0 {
		t.Fatalf("both are user %d", first)
	}
	if first != firstUser+preferred(a) {
		t.Errorf("the first is user %d: it lost what it owned when users were not recorded", first)
	}
	if again := open(t, path); of(t, again, b) != second || of(t, again, a) != first {
		t.Error("after a restart they are others")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// In a handover two agents have the file open: neither gives what the other gave.
func TestUsersOfTwoAgents(t *testing.T) {
	rooted(t)
	a, b := twins(t)
	path := filepath.Join(t.TempDir(), "users.json")
	before, after := open(t, path), open(t, path)
	if first, second := of(t, before, a), of(t, after, b); first == second || of(t, after, a) != first || of(t, before, b) != second {
		t.Errorf("%d and %d", first, second)
	}
}

func TestUsersAtOnce(t *testing.T) {
	rooted(t)
	u := open(t, filepath.Join(t.TempDir(), "users.json"))
	var mu sync.Mutex
	var wait sync.WaitGroup
	seen := map[int]string{}
	for i := range 20 {
		wait.Go(func() {
			key := fmt.Sprint("service ", i)
			uid, _, err := u.Of(key)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[uid] != "" {
				t.Errorf("%s and %s: user %d, %v", key, seen[uid], uid, err)
			}
			seen[uid] = key
		})
	}
	wait.Wait()
}

// What can't be on disk is not given; what is not right there is not believed.
func TestUsersThatCannotBeKept(t *testing.T) {
	rooted(t)
	gone := filepath.Join(t.TempDir(), "gone", "users.json")
	u := open(t, gone)
	if _, _, err := u.Of("shop"); err == nil || !strings.Contains(err.Error(), "couldn't give shop a user of its own") {
		t.Errorf("%v", err)
	}
	if err := os.Mkdir(filepath.Dir(gone), 0o700); err != nil {
		t.Fatal(err)
	}
	if uid := of(t, u, "shop"); uid != firstUser+preferred("shop") {
		t.Errorf("after that it is user %d", uid)
	}
	if _, _, err := (*Users)(nil).Of("shop"); err == nil {
		t.Error("nobody gave a user")
	}
	full := open(t, filepath.Join(t.TempDir(), "users.json"))
	for i := range maxServices {
		full.byKey[fmt.Sprint(i)], full.taken[i] = i, true
	}
	if err := full.save(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := full.Of("one more"); err == nil || !strings.Contains(err.Error(), "the most that it gives") {
		t.Errorf("%v", err)
	}
	if of(t, full, "17") != firstUser+17 {
		t.Error("one that has a user lost it")
	}
	for text, says := range map[string]string{
		"": "unexpected end", "{}": "version 0", `{"version":2}`: "version 2",
		`{"version":1,"users":{"a":1,"b":1}}`: "the user of another service", `{"version":1,"users":{"a":-1}}`: "no service's",
		`{"version":1,"users":{"a":100000}}`: "no service's", `{"version":1,"users":{"a":"x"}}`: "cannot unmarshal",
		strings.Repeat(" ", maxUsersFile+1): "more than",
	} {
		path := filepath.Join(t.TempDir(), "users.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenUsers(path); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "put a copy from before") {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// Who is not root has one user to give, and needs no file. Root tells the story as
// nobody.
func TestUsersOfAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() == 0 {
		const nobody = 65534
		dir, err := os.MkdirTemp("", "users-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "users.json")
	if uid := of(t, open(t, path), "shop"); uid != os.Geteuid() {
		t.Errorf("user %d", uid)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was made")
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(`{"version":1,"users":{"default/shop/production":17}}`))
	f.Add([]byte(`{"version":1,"users":{"a":1,"b":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		u := &Users{byKey: map[string]int{}, taken: map[int]bool{}}
		if u.decode(b) != nil {
			return
		}
		if len(u.byKey) != len(u.taken) || len(u.byKey) > maxServices {
			t.Errorf("%d services have %d users", len(u.byKey), len(u.taken))
		}
		for key, n := range u.byKey {
			if n < 0 || n >= users || !u.taken[n] {
				t.Errorf("%q: %d", key, n)
			}
		}
	})
}

// A file that can't be read any more takes no service's user from who knows it.
func TestUsersStayWhereTheFileIsBroken(t *testing.T) {
	rooted(t)
	path := filepath.Join(t.TempDir(), "users.json")
	u := open(t, path)
	first := of(t, u, "default/shop/production")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"{", `{"version":2}`, `{"version":1,"users":{"a":1,"b":1}}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := u.Of("default/new/production"); err == nil {
			t.Errorf("%s: a user was given", text)
		}
		if now := of(t, u, "default/shop/production"); now != first {
			t.Errorf("%s: user %d became %d", text, first, now)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if other := of(t, u, "default/new/production"); other == first {
		t.Error("both have one user")
	}
}
