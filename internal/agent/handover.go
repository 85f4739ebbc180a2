package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/proxy"
)

// An agent hands over to a newer one through a socket in its folder:
//
//	new                                        old
//	hello ───────────────────────────────────► stops deciding; its proxies go on as they are
//	          ◄─────────────── state, listener, …  (with the lock and the sockets)
//	reads what is kept, verifies, takes up the instances
//	ready ───────────────────────────────────►
//	          ◄───────────────────────────── go  (with all counts): from here on the new one serves
//	          ◄─────────────────────────── conn, …  each connection, as soon as no request is open on it
//	          ◄──────────────────────── counts  when the last request has ended; the old one ends
//
// Before "go" the new one has no effect that the old one would not have, and when
// either fails there the old one goes on: see thaw. After it the old one only
// answers requests that were open. Boot and counters go on, as if there were one.
const (
	handoverFile     = "agent.sock"
	handoverProtocol = 1
	maxNote          = 160 << 10

	prepareIn   = 30 * time.Second // from hello to ready
	lingerFor   = 10 * time.Minute // what was open at the old one may last so long
	sweepAfter  = 30 * time.Second // instances that no state has live on for open requests of the old one
	waitForLast = 20 * time.Second // an upgrade waits so long for the end of the one before
)

func (a *agent) count() tallies {
	t := make(tallies)
	for _, s := range a.services {
		t[s.key.String()] = s.proxy.Count()
	}
	return t
}

// absorb adds counts of the agent before; before is what was added of them already.
func (a *agent) absorb(now, before tallies) {
	for _, s := range a.services {
		k := s.key.String()
		if n, ok := now[k]; ok {
			s.proxy.Absorb(n, before[k])
		}
	}
}

// short names the socket by a descriptor of its folder: a socket's path has at most
// 108 bytes, and a data folder's may have more.
func short(dir string, f func(path string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
}

// await listens for the agent that will come after us.
func (a *agent) await() (stop func(), err error) {
	var l *net.UnixListener
	err = short(a.cfg.DataDir, func(path string) error {
		name := handoverFile + ".new"
		_ = os.Remove(filepath.Join(a.cfg.DataDir, name))
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(path, name)})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // by then the name may be another's
		if err := os.Chmod(filepath.Join(a.cfg.DataDir, name), 0o600); err != nil {
			return err
		}
		return os.Rename(filepath.Join(a.cfg.DataDir, name), filepath.Join(a.cfg.DataDir, handoverFile))
	})
	if err != nil {
		if l != nil {
			_ = l.Close()
		}
		return nil, fmt.Errorf("couldn't listen for the next agent: %w", err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			next := &link{conn: c}
			n, file, err := next.receive(5 * time.Second)
			if file != nil {
				_ = file.Close()
			}
			if err == nil && (n.Type != "hello" || n.Protocol != handoverProtocol) {
				err = fmt.Errorf("this agent hands over by protocol %d, not by %d: end it (SIGTERM) and start the other", handoverProtocol, n.Protocol)
				_ = next.send(note{Type: "refused", Reason: err.Error()}, nil)
			}
			if err != nil {
				_ = c.Close()
				continue
			}
			a.cfg.Logger.Info("another agent takes over", "version", n.Version)
			select {
			case a.asked <- next:
				return // one at a time; thaw listens anew
			case <-a.ctx.Done():
				_ = c.Close()
				return
			}
		}
	})
	return func() { _ = l.Close(); wait.Wait() }, nil
}

// handOver gives everything to the next agent. True means that it serves now, and
// that our last request has ended; false that we go on.
func (a *agent) handOver(ctx context.Context, next *link) bool {
	defer next.conn.Close()
	if err := a.offer(next); err != nil {
		a.cfg.Logger.Error("another agent did not take over; going on", "error", err)
		return false
	}
	_ = a.lock.Close() // it is the other's, also when that one ends before us
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), lingerFor)
	defer cancel()
	first := make(chan struct{})
	go func() {
		// It says no more. Its end is ours: then nobody counts or waits for us.
		defer close(first)
		_, _, _ = next.receive(0)
		cancel()
	}()
	var wait sync.WaitGroup
	for _, s := range a.services {
		for i, p := range []*proxy.Server{s.proxy, s.preview} {
			wait.Go(func() {
				err := p.HandOver(drain, func(nc net.Conn, read []byte, first bool) {
					tcp, ok := nc.(syscall.Conn)
					if !ok {
						return
					}
					if err := next.send(note{Type: "conn", Key: s.key, Side: i == 1, Read: read, First: first}, tcp); err != nil {
						a.cfg.Logger.Warn("a connection was lost on the way to the next agent", "error", err)
					}
				})
				if err != nil {
					a.cfg.Logger.Warn("couldn't drain", "service", s.key.String(), "error", err)
				}
			})
		}
	}
	wait.Wait()
	if err := next.sendTallies(note{Type: "counts"}, a.cfg.DataDir, a.count()); err != nil {
		a.cfg.Logger.Warn("the last counts did not reach the next agent", "error", err)
	}
	_ = next.conn.CloseWrite()
	_ = next.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	<-first
	a.cfg.Logger.Info("handed over")
	return true
}

// offer does all up to "go".
func (a *agent) offer(next *link) error {
	err := next.send(note{Type: "state", Protocol: handoverProtocol, Boot: a.boot, Sequence: a.sequence, Contact: a.contact.at.Load()}, a.lock)
	if err != nil {
		return err
	}
	for _, s := range a.services {
		for _, d := range s.openings() {
			l, ok := d.listener.(syscall.Conn)
			if !ok {
				continue
			}
			if err := next.send(note{Type: "listener", Key: s.key, Side: d.side, Opened: d.opened}, l); err != nil {
				return err
			}
		}
	}
	if err := next.send(note{Type: "all"}, nil); err != nil {
		return err
	}
	n, file, err := next.receive(prepareIn)
	if file != nil {
		_ = file.Close()
	}
	if err != nil {
		return err
	}
	if n.Type != "ready" {
		return fmt.Errorf("it said %.40q", n.Type)
	}
	return next.sendTallies(note{Type: "go"}, a.cfg.DataDir, a.count())
}

// predecessor is the agent that we take over from.
type predecessor struct {
	*link
	lock      *os.File
	state     note
	listeners []handed
	counts    tallies       // what was absorbed of its counts
	gone      chan struct{} // closed: its last request has ended
}

type handed struct {
	note
	listener net.Listener
}

// succeed asks the agent of the folder to hand over.
func succeed(dir, version string) (*predecessor, error) {
	p := &predecessor{gone: make(chan struct{})}
	err := short(dir, func(path string) error {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(path, handoverFile)})
		p.link = &link{conn: c}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't take over: the agent of this folder does not hand over; end it (SIGTERM): %w: %w", ErrLocked, err)
	}
	if err := p.collect(version); err != nil {
		p.close()
		return nil, fmt.Errorf("couldn't take over from the agent of this folder, which goes on: %w", err)
	}
	return p, nil
}

func (p *predecessor) collect(version string) error {
	if err := p.send(note{Type: "hello", Protocol: handoverProtocol, Version: version}, nil); err != nil {
		return err
	}
	for {
		n, file, err := p.receive(waitForLast + prepareIn)
		switch {
		case err != nil:
			return err
		case n.Type == "all" && p.lock != nil:
			return nil
		case n.Type == "state" && file != nil && n.Protocol == handoverProtocol:
			p.state, p.lock = n, file
		case n.Type == "listener" && file != nil:
			l, err := net.FileListener(file)
			_ = file.Close()
			if err != nil {
				return fmt.Errorf("couldn't use a listener: %w", err)
			}
			p.listeners = append(p.listeners, handed{n, l})
		default:
			if file != nil {
				_ = file.Close()
			}
			return fmt.Errorf("it said %.40q out of turn", n.Type)
		}
	}
}

func (p *predecessor) close() {
	_ = p.conn.Close()
	for _, h := range p.listeners {
		_ = h.listener.Close()
	}
	if p.lock != nil {
		_ = p.lock.Close()
	}
}

// inherit puts the predecessor's listeners in their places, closed for now.
func (a *agent) inherit(p *predecessor) {
	for _, h := range p.listeners {
		s := a.services[h.Key]
		if s == nil || s.desired.Removed {
			_ = h.listener.Close()
			continue
		}
		switch d := (door{listener: h.listener, opened: h.Opened}); {
		case h.Side:
			s.side = d
		case s.front.listener == nil: // the first that comes
			s.front = d
		default:
			if s.also == nil {
				s.also = make(map[string]*door)
			}
			s.also[h.Opened] = &d
		}
	}
}

// takeOver makes ready without an effect, and returns when we are the agent.
func (a *agent) takeOver(ctx context.Context, p *predecessor) error {
	a.inherit(p)
	deadline := time.NewTimer(prepareIn)
	defer deadline.Stop()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for a.settleAll(); a.resuming > 0; a.settleAll() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case f := <-a.calls:
			f()
		case <-a.changed:
		case <-retry.C:
		case <-deadline.C:
			return fmt.Errorf("%d releases were not verified within %s", a.resuming, prepareIn)
		}
	}
	if err := p.send(note{Type: "ready"}, nil); err != nil {
		return err
	}
	n, file, err := p.receive(prepareIn)
	if err != nil {
		return err
	}
	if n.Type != "go" {
		return fmt.Errorf("it said %.40q", n.Type)
	}
	// From here on it is up to us, whatever happens.
	if p.counts, err = readTallies(file); err != nil {
		a.cfg.Logger.Error("the counts of the agent before are lost", "error", err)
		a.boot, a.sequence = newBoot(), 0
	}
	a.absorb(p.counts, nil)
	writePID(a.lock)
	for _, s := range a.services {
		for _, d := range s.openings() {
			if l := d.listener; l != nil && slices.ContainsFunc(p.listeners, func(h handed) bool { return h.listener == l }) {
				a.doors.Go(func() { _ = d.by.Serve(l) })
			}
		}
	}
	notifyManager()
	a.cfg.Logger.Info("took over", "boot", a.boot)
	return nil
}

// follow takes in the predecessor's connections and its last counts.
func (a *agent) follow(p *predecessor) {
	defer close(p.gone)
	stop := context.AfterFunc(a.ctx, func() { _ = p.conn.Close() })
	defer stop()
	defer p.conn.Close()
	for {
		n, file, err := p.receive(0)
		if err != nil {
			return
		}
		switch {
		case n.Type == "conn" && file != nil:
			nc, err := net.FileConn(file)
			_ = file.Close()
			if err != nil {
				a.cfg.Logger.Warn("couldn't use a connection of the agent before", "error", err)
				continue
			}
			var srv *proxy.Server
			if !a.do(a.ctx, func() {
				if s := a.services[n.Key]; s != nil {
					srv = s.proxy
					if n.Side {
						srv = s.preview
					}
				}
			}) || srv == nil {
				_ = nc.Close()
				continue
			}
			srv.Adopt(nc, n.Read, n.First)
		case n.Type == "counts":
			last, err := readTallies(file)
			if err != nil {
				a.cfg.Logger.Error("the last counts of the agent before are lost", "error", err)
				return
			}
			a.do(a.ctx, func() { a.absorb(last, p.counts) })
			nudge(a.kick)
			return
		case file != nil:
			_ = file.Close()
		}
	}
}

// thaw goes on after a handover that was not taken up. Instances of revisions that
// were stopping get some time for their open requests, and are swept then.
func (a *agent) thaw() {
	writePID(a.lock)
	for _, s := range a.services {
		for id, r := range s.revs {
			r.group, r.checking = nil, false
			if r.stopping {
				delete(s.revs, id)
			}
		}
	}
}

// notifyManager tells systemd which process the agent is now.
func notifyManager() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "MAINPID=%d\nREADY=1", os.Getpid())
}
