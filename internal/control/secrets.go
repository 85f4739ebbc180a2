package control

import (
	"os"
	"strconv"
	"strings"
)

// secretVersion tells whether a secret changed since a release was made. The
// store for local use, a file, has no versions of its own: its time of change
// stands for one. Nothing is derived from the value.
func secretVersion(ref string) string {
	path, ok := strings.CutPrefix(ref, "file:")
	if !ok {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return "" // it lies on the host that runs the service
	}
	return "mtime-" + strconv.FormatInt(info.ModTime().UnixNano(), 36)
}
