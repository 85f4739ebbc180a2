package agent

import (
	"fmt"
	"net"

	"github.com/sluicehq/sluice/internal/agent/proxy"
)

// door is an address that requests come in by.
type door struct {
	listener net.Listener
	opened   string // what listener was opened for
	why      string // why there is none
}

func (d *door) address() string {
	if d.listener == nil {
		return ""
	}
	return d.listener.Addr().String()
}

// settleDoors opens, moves or closes the service's listeners.
func (a *agent) settleDoors(s *service) {
	front, side := s.desired.Listen, s.desired.Preview
	if s.desired.Removed || s.desired.Generation == 0 {
		front, side = "", ""
	}
	s.move(front, a.cfg.Address)
	a.settleDoor(s, &s.front, front, s.proxy)
	a.settleDoor(s, &s.side, side, s.preview)
	a.settleAlso(s, front)
}

// move makes an address that is open besides the service's own to that, and the
// other way round: neither is closed for it.
func (s *service) move(listen, address string) {
	to, err := listenAddress(listen, address)
	if d := s.also[to]; err == nil && d != nil && d.listener != nil && s.front.opened != to {
		delete(s.also, to)
		if s.front.listener != nil {
			old := s.front
			s.also[old.opened] = &old
		}
		s.front = *d
	}
}

// settleAlso opens and closes the addresses besides the service's own.
func (a *agent) settleAlso(s *service, front string) {
	want := make(map[string]bool)
	if front != "" {
		for _, listen := range s.desired.Also {
			if addr, err := listenAddress(listen, a.cfg.Address); err == nil && addr != s.front.opened {
				want[addr] = true
			}
		}
	}
	for addr := range want {
		if s.also == nil {
			s.also = make(map[string]*door)
		}
		if s.also[addr] == nil {
			s.also[addr] = new(door)
		}
		a.settleDoor(s, s.also[addr], addr, s.proxy)
	}
	for addr, d := range s.also {
		if !want[addr] {
			a.settleDoor(s, d, "", s.proxy)
			delete(s.also, addr)
		}
	}
}

// opening is one of a service's doors, and who serves there.
type opening struct {
	*door
	side bool // the preview's, not the users'
	by   *proxy.Server
}

func (s *service) openings() []opening {
	out := []opening{{&s.front, false, s.proxy}, {&s.side, true, s.preview}}
	for _, d := range s.also {
		out = append(out, opening{d, false, s.proxy})
	}
	return out
}

// settleDoor has p serve at an address, or nowhere. A new address is open before
// the old one is closed.
func (a *agent) settleDoor(s *service, d *door, listen string, p *proxy.Server) {
	if listen == "" {
		if d.listener != nil {
			_ = d.listener.Close()
			nudge(a.kick)
		}
		*d = door{}
		return
	}
	addr, err := listenAddress(listen, a.cfg.Address)
	if err == nil && d.listener != nil && d.opened == addr {
		d.why = ""
		return
	}
	var l net.Listener
	if err == nil {
		l, err = net.Listen("tcp", addr)
	}
	if err != nil {
		if why := fmt.Sprintf("couldn't listen on %s: %v", addr, err); why != d.why {
			d.why = why
			a.cfg.Logger.Error("couldn't listen", "service", s.key.String(), "error", err)
			nudge(a.kick)
		}
		return
	}
	if d.listener != nil {
		_ = d.listener.Close()
	}
	*d = door{listener: l, opened: addr}
	nudge(a.kick)
	a.doors.Go(func() { _ = p.Serve(l) })
}
