package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/release"
)

// note is one message of a handover.
type note struct {
	Type     string      `json:"type"`
	Protocol int         `json:"protocol,omitempty"`
	Version  string      `json:"version,omitempty"`
	Boot     string      `json:"boot,omitempty"`
	Sequence uint64      `json:"sequence,omitempty"`
	Contact  int64       `json:"contact,omitempty"` // ns since 1970
	Key      release.Key `json:"key,omitzero"`
	Side     bool        `json:"side,omitempty"` // the preview's, not the users'
	Opened   string      `json:"opened,omitempty"`
	Read     []byte      `json:"read,omitempty"`
	First    bool        `json:"first,omitempty"`
	Reason   string      `json:"reason,omitempty"`
}

// tallies are the counts of all services, by Key.String.
type tallies map[string]proxy.Counts

// link is one end of a handover.
type link struct {
	conn *net.UnixConn
	mu   sync.Mutex
}

// send sends a note with at most one descriptor, which stays ours too.
func (l *link) send(n note, with syscall.Conn) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("couldn't encode a note: %w", err)
	}
	if len(b) > maxNote {
		return fmt.Errorf("a note of %d bytes is too long", len(b))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	write := func(rights []byte) error {
		_, _, err := l.conn.WriteMsgUnix(b, rights, nil)
		// The kernel bounds descriptors that are under way: it passes.
		for try := 0; errors.Is(err, syscall.ETOOMANYREFS) && try < 500; try++ {
			time.Sleep(10 * time.Millisecond)
			_, _, err = l.conn.WriteMsgUnix(b, rights, nil)
		}
		return err
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if with == nil {
		return write(nil)
	}
	raw, err := with.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = write(syscall.UnixRights(int(fd))) }); cerr != nil {
		return cerr
	}
	return err
}

// receive reads a note and the descriptor that came with it, or nil.
func (l *link) receive(within time.Duration) (n note, file *os.File, err error) {
	var by time.Time
	if within > 0 {
		by = time.Now().Add(within)
	}
	_ = l.conn.SetReadDeadline(by)
	b, oob := make([]byte, maxNote), make([]byte, syscall.CmsgSpace(4))
	size, oobn, flags, _, err := l.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	if size == 0 {
		return n, nil, io.EOF
	}
	if file, err = received(oob[:oobn]); err != nil {
		return n, nil, err
	}
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = errors.New("a note was cut off")
	} else {
		err = json.Unmarshal(b[:size], &n)
	}
	if err == nil && n.Type == "refused" {
		err = errors.New(n.Reason)
	}
	if err != nil && file != nil {
		_ = file.Close()
		file = nil
	}
	return n, file, err
}

func received(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	all, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("couldn't read what came with a note: %w", err)
	}
	var file *os.File
	for _, m := range all {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			if file != nil {
				_ = syscall.Close(fd)
				continue
			}
			file = os.NewFile(uintptr(fd), "handed over")
		}
	}
	return file, nil
}

// sendTallies sends counts, which have no bound, in a file without a name.
func (l *link) sendTallies(n note, dir string, t tallies) error {
	f, err := os.CreateTemp(dir, "counts-")
	if err != nil {
		return fmt.Errorf("couldn't hand the counts over: %w", err)
	}
	defer f.Close()
	_ = os.Remove(f.Name())
	if err := json.NewEncoder(f).Encode(t); err != nil {
		return fmt.Errorf("couldn't hand the counts over: %w", err)
	}
	return l.send(n, f)
}

func readTallies(f *os.File) (t tallies, err error) {
	if f == nil {
		return nil, errors.New("counts came without their file")
	}
	defer f.Close()
	err = json.NewDecoder(io.NewSectionReader(f, 0, 1<<30)).Decode(&t)
	return t, err
}
