package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/internal/agent/confine"
)

// sessions holds a folder for each user who is logged in.
const sessions = "/run/user"

// isolation tries whether services can be isolated here, and returns what is said
// of it in every report. It never keeps the agent from serving: a host that
// forbids namespaces runs services as before, and is told of it loudly.
func (c *Config) isolation() string {
	if c.Isolation == None {
		c.Logger.Warn("services are not isolated, as was asked for: their code can read what the agent can, its token and the keys of a server on this machine among it")
		return None + ": it was started with --isolation none"
	}
	if os.Geteuid() != 0 {
		// The session's buses would start processes outside for who has this user. All
		// sessions' folders, as this user's may come after a service.
		c.Hide = append(c.Hide, sessions)
	}
	if err := confine.Probe(c.DataDir); err != nil {
		c.Logger.Error("SERVICES ARE NOT ISOLATED: their code can read what the agent can, its token and the keys of a server on this machine among it. See docs/operations.md, Isolation of services", "error", err)
		return None + ": " + err.Error()
	}
	return Namespaces
}

// own is what is Sluice's: the agent's folder and credentials, and of a local
// agent the server's folder, which is hidden and has the agent's in it.
func (c *Config) own() []string {
	out := append([]string{c.DataDir}, c.Own...)
	data := realPath(c.DataDir)
	for _, path := range c.Hide {
		if name, err := filepath.Rel(realPath(path), data); err == nil && filepath.IsLocal(name) {
			out = append(out, path)
		}
	}
	return out
}

// secretsDir is the folder in the agent's own whose files are services' secrets.
const secretsDir = "secrets"

// secrets completes the folders that releases may name files of. One that is not
// there now is no reason to end: a service that needs it says so.
func (c *Config) secrets() error {
	dirs := []string{filepath.Join(c.DataDir, secretsDir)}
	for _, dir := range c.Secrets {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("couldn't find the folder of secrets %s: %w", dir, err)
		}
		if realPath(abs) == "/" {
			return errors.New("couldn't take / as a folder of secrets: services would be given any file, and see none; name the folder that the secrets are in")
		}
		if _, err := os.Stat(abs); err != nil {
			c.Logger.Warn("a folder of secrets can't be read: services that name files there will not start", "error", err)
		}
		dirs = append(dirs, abs)
	}
	c.Secrets = dirs
	return nil
}

// realPath is path without links, as far as that can be said.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}
