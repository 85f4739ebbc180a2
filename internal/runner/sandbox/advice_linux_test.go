package sandbox

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/rights"
)

func TestAdviceIsTheExactCommand(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"},
		{"kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"", "", "--security-opt"},
	} {
		got := advice(func(name string) string {
			if name == c.name {
				return c.value
			}
			return ""
		})
		if !strings.Contains(got, c.want) || !strings.Contains(got, "--isolation=none") {
			t.Errorf("%s=%s: %s", c.name, c.value, got)
		}
	}
}

func TestRunNeedsItsHook(t *testing.T) {
	old := hooked
	hooked = false
	defer func() { hooked = old }()
	if _, err := Run(t.Context(), Config{}, nil); err == nil || !strings.Contains(err.Error(), "MaybeRun") {
		t.Errorf("got %v", err)
	}
}

func TestTheStepIsNeverRootOutside(t *testing.T) {
	if uid, gid := Owner(); (uid == 0 || gid == 0) && rights.Exists(ownerID) {
		t.Errorf("it is %d:%d", uid, gid)
	}
}
