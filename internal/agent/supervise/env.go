package supervise

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/secret"
)

// resolve returns the values of secrets.
func (s *Supervisor) resolve(refs map[string]release.SecretRef) (map[string]string, error) {
	read := secret.Within(s.opt.Secrets, s.opt.Own)
	out := make(map[string]string, len(refs))
	for name, ref := range refs {
		v, err := read(context.Background(), ref.Ref)
		if err != nil {
			return nil, fmt.Errorf("couldn't resolve the secret %s: %w", name, err)
		}
		out[name] = v
	}
	return out, nil
}

// environment is all that a service sees: little of the agent's own, what its
// release says, and last what it can't be told otherwise.
func environment(s Spec, secrets map[string]string, mark, id, tmp string, port int) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG": "C.UTF-8",
		"HOME": tmp,
	}
	for _, k := range []string{"PATH", "LANG", "TZ"} {
		if v, ok := os.LookupEnv(k); ok {
			env[k] = v
		}
	}
	for k, v := range s.Env {
		env[k] = v
	}
	for k, v := range secrets {
		env[k] = v
	}
	env["TMPDIR"] = tmp
	env["PORT"] = strconv.Itoa(port)
	env["SLUICE_PROJECT"] = s.Key.Project
	env["SLUICE_SERVICE"] = s.Key.Service
	env["SLUICE_ENVIRONMENT"] = s.Key.Environment
	env["SLUICE_RELEASE"] = string(s.Release)
	env["SLUICE_INSTANCE"] = id
	out := make([]string, 0, len(env)+1)
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			continue // refused before: see agent's check of a desired state
		}
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return append(out, mark)
}
