package supervise

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// A service writes to a pipe, and a pump of its own, a process, writes what comes
// out of it to the log. A service that held the file itself would see the errors
// of a full disk, and many die of them; one that wrote to a pipe of the agent
// would die with the agent. The pump ends when the service has.
//
// The pump is this program again under another name, recognised before main runs,
// so that any binary that supervises can also pump.
const pumpName = "sluice-log"

const maxLog = 10 << 20

func init() {
	if len(os.Args) == 2 && os.Args[0] == pumpName {
		pump(os.Stdin, os.Args[1])
		os.Exit(0)
	}
}

// startPump returns the end of a pipe that a service writes to, and the process
// that reads it. Without a pump, for want of processes, the service runs without
// a log.
func startPump(path string) (*os.File, *process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a pipe for the log: %w", err)
	}
	defer r.Close()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{pumpName, path}, Env: []string{"GOMAXPROCS=1", "GOGC=50"}, Dir: "/", Stdin: r}
	p, err := spawn(cmd)
	if err != nil {
		_ = w.Close()
		return nil, nil, fmt.Errorf("couldn't start the log's writer: %w", err)
	}
	return w, p, nil
}

// pump writes all of r to the log, and never waits for it: what the disk does not
// take is dropped, and said to be when it takes something again.
func pump(r io.Reader, path string) {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	parts := make(chan []byte, 64)
	var lost atomic.Int64
	go func() {
		defer close(parts)
		for {
			buf := make([]byte, 32<<10)
			n, err := r.Read(buf)
			if n > 0 {
				select {
				case parts <- buf[:n]:
				default:
					lost.Add(int64(n))
				}
			}
			if err != nil {
				return
			}
		}
	}()
	l := logFile{path: path}
	for p := range parts {
		if n := lost.Swap(0); n > 0 {
			p = append(fmt.Appendf(nil, "sluice: %d bytes of the log were lost here\n", n), p...)
		}
		if !l.write(p) {
			lost.Add(int64(len(p)))
		}
	}
	l.close()
}

// logFile is a log of at most maxLog bytes, and one older file.
type logFile struct {
	path string
	f    *os.File
	size int64
	next time.Time // not to be opened before
}

func (l *logFile) write(p []byte) bool {
	if l.f != nil && l.size+int64(len(p)) > maxLog {
		l.close()
		if os.Rename(l.path, l.path+".1") != nil {
			_ = os.Truncate(l.path, 0)
		}
	}
	if l.f == nil && !l.open() {
		return false
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	if err != nil {
		l.close()
		_ = os.Remove(l.path + ".1") // on a full disk the room is worth more
		return false
	}
	return true
}

func (l *logFile) open() bool {
	now := time.Now()
	if now.Before(l.next) {
		return false
	}
	l.next = now.Add(200 * time.Millisecond)
	if os.MkdirAll(filepath.Dir(l.path), 0o700) != nil {
		return false
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return false
	}
	l.f, l.size, l.next = f, info.Size(), time.Time{}
	return true
}

func (l *logFile) close() {
	if l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}
