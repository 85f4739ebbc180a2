package source

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// RepositoryID names the repository in releases and keys. With a remote it is
// that remote's host and path, the same for every clone and protocol and never
// with credentials: github.com/acme/shop. Without one it is the first commit's
// hash and the folder: git:4b825dc642cb:/home/alice/shop.
func RepositoryID(ctx context.Context, repo string) (string, error) {
	root, _, err := Root(ctx, repo)
	if err != nil {
		return "", err
	}
	out, err := git(ctx, repo, "config", "--local", "--get", "remote.origin.url")
	if err == nil {
		if id := remoteID(strings.TrimSpace(string(out))); id != "" {
			return id, nil
		}
	}
	out, err = git(ctx, repo, "rev-list", "--max-parents=0", "HEAD")
	if err != nil {
		return "", noCommit(ctx, repo, "HEAD")
	}
	roots := strings.Fields(string(out))
	slices.Sort(roots) // a merged history has several
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	return fmt.Sprintf("git:%s:%s", short(roots[0]), filepath.ToSlash(root)), nil
}

// remoteID reduces a remote's address to host and path; empty when the address
// is a folder of this machine or not understood.
func remoteID(remote string) string {
	var host, path string
	if strings.Contains(remote, "://") {
		u, err := url.Parse(remote)
		if err != nil || u.Scheme == "file" {
			return ""
		}
		host, path = u.Host, u.Path // without user and password
		for scheme, port := range map[string]string{"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"} {
			if u.Scheme == scheme {
				host = strings.TrimSuffix(host, port)
			}
		}
	} else {
		// git@github.com:acme/shop.git; a slash before the colon means a folder
		before, after, ok := strings.Cut(remote, ":")
		if !ok || strings.Contains(before, "/") {
			return ""
		}
		host, path = before[strings.LastIndexByte(before, '@')+1:], after
	}
	path = strings.Trim(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "/")
	if host == "" || path == "" || strings.ContainsAny(host+path, "\x00\n\r \t@?#") {
		return ""
	}
	return strings.ToLower(host) + "/" + path
}
