package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/httpapi"
)

// What is no folder of secrets is said before a server starts.
func TestSecretFolders(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "named"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "all")); err != nil {
		t.Fatal(err)
	}
	got, err := secretFolders([]string{"named", dir})
	if want := []string{abs("named"), dir}; err != nil || !slices.Equal(got, want) || !filepath.IsAbs(got[0]) {
		t.Errorf("%q, want %q, %v", got, want, err)
	}
	for path, says := range map[string]string{
		"gone": "no such file", file: "is no folder", "/": "any file of this machine", "all": "any file of this machine",
		"/usr": "build steps see", "/usr/bin": "build steps see",
		"/etc": "/etc/sluice-secrets", "/var/": "a folder of their own below it", "/tmp": "a folder of their own below it",
	} {
		if _, err := secretFolders([]string{"named", path}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "--secrets") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A host with several addresses has a token that names them.
func TestAgentTokenOfAddresses(t *testing.T) {
	const token = "an access token that is long"
	t.Setenv("SLUICE_TOKEN", token)
	access, err := httpapi.NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		a := &app{out: &out, err: &out, data: t.TempDir()}
		c := a.agentToken()
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceUsage, c.SilenceErrors = true, true
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if got, err := run("web-1", "--address", "10.0.0.5", "--address", "2001:db8::5"); err != nil || got != access.AgentToken("web-1", "10.0.0.5", "2001:db8::5")+"\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, address := range []string{"", "web-1", "10.0.0.5:9001", "0.0.0.0", "::", "224.0.0.1"} {
		if got, err := run("web-1", "--address", address); err == nil || !strings.Contains(err.Error(), "no address of one machine") {
			t.Errorf("%q: %q, %v", address, got, err)
		}
	}
	many := []string{"web-1"}
	for range 17 {
		many = append(many, "--address", "10.0.0.5")
	}
	if _, err := run(many...); err == nil || !strings.Contains(err.Error(), "more than 16") {
		t.Errorf("%v", err)
	}
}
