package demo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processesIn finds the processes that work for a demo's folder: they run a file
// of it (instances), work where it builds or serves (steps, instances), or are
// this program with the agent's part of it as an argument. A user's shell that
// looks around in the folder is none of them.
func processesIn(folder string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	inside := func(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	work, agent := filepath.Join(folder, "work"), filepath.Join(folder, "agent")
	self, _ := os.Readlink("/proc/self/exe")
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", e.Name())
		exe, _ := os.Readlink(filepath.Join(proc, "exe")) // not allowed, or gone: not ours
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		hit := inside(exe, folder) || inside(cwd, work) || inside(cwd, agent)
		if exe == self && !hit {
			args, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			for arg := range bytes.SplitSeq(args, []byte{0}) {
				hit = hit || inside(string(arg), agent)
			}
		}
		if hit {
			found = append(found, pid)
		}
	}
	return found
}

// endWithin is how long a process gets to end by itself.
const endWithin = 5 * time.Second

// endAllIn asks all processes of a folder to end, and makes those that don't.
func endAllIn(folder string) error {
	begun := time.Now()
	for asked := map[int]bool{}; ; time.Sleep(20 * time.Millisecond) {
		left := processesIn(folder)
		if len(left) == 0 {
			return nil
		}
		late := time.Since(begun)
		for _, pid := range left {
			switch {
			case late > endWithin:
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have gone meanwhile
			case !asked[pid]:
				asked[pid] = true
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		if late > 2*endWithin {
			return fmt.Errorf("couldn't end the processes %v of %s; end them by hand", left, folder)
		}
	}
}

// parentGone waits until the process that started this one has gone. Only the
// go command is waited for: see the package's comment.
func parentGone(stop <-chan struct{}) bool {
	parent := os.Getppid()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil || strings.TrimSpace(string(name)) != "go" {
		<-stop
		return false
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return false
		case <-tick.C:
			if os.Getppid() != parent {
				return true
			}
		}
	}
}
