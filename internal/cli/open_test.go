package cli

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/httpapi"
)

func TestOpenHostsAreNamed(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"host":"web-1","isolation":"namespaces"},{"host":"web-2","isolation":"none: no user namespaces here"},{"host":"web-3","missing":true,"isolation":"none: away"},{"host":"web-4"}]`))
	}))
	defer s.Close()
	var out bytes.Buffer
	a := &app{out: &out, err: &out}
	a.warnOpen(context.Background(), &client{base: s.URL, project: "default", http: s.Client()})
	if got := out.String(); got != "warning: services on host web-2 are not isolated from its keys: no user namespaces here\n" {
		t.Errorf("%q", got)
	}
}

// The token goes to standard output, alone, and is the one that the server knows.
func TestAgentToken(t *testing.T) {
	dir := t.TempDir()
	const token = "an access token that is long"
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_TOKEN", "")
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs, data: dir}
	c := a.agentToken()
	if err := c.RunE(c, []string{"web-1"}); err != nil {
		t.Fatal(err)
	}
	access, err := httpapi.NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != access.AgentToken("web-1")+"\n" || errs.Len() != 0 {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
	for _, host := range []string{"", "two words", strings.Repeat("x", 300)} {
		if err := c.RunE(c, []string{host}); err == nil {
			t.Errorf("a token for %.20q", host)
		}
	}
}
