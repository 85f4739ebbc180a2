package store

import "sync"

// hub hands topics to this process's subscribers.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	seen   map[string]struct{} // every topic so far, for [hub.all]
	closed bool
	wg     sync.WaitGroup
}

type subscription struct {
	mu      sync.Mutex
	pending []string
	wake    chan struct{} // of capacity 1
	done    chan struct{}
	end     sync.Once
}

func newHub() *hub {
	return &hub{
		subs: map[*subscription]struct{}{},
		seen: map[string]struct{}{TopicWork: {}, TopicDesired: {}, TopicObserved: {}},
	}
}

func (h *hub) subscribe() (<-chan string, func()) {
	out := make(chan string)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(out)
		return out, func() {}
	}
	s := &subscription{wake: make(chan struct{}, 1), done: make(chan struct{})}
	h.subs[s] = struct{}{}
	stopped := make(chan struct{})
	h.wg.Go(func() {
		defer close(stopped)
		defer close(out)
		s.pump(out)
	})
	return out, func() {
		h.mu.Lock()
		delete(h.subs, s)
		h.mu.Unlock()
		s.end.Do(func() { close(s.done) })
		<-stopped
	}
}

func (s *subscription) pump(out chan<- string) {
	for {
		topic, ok := s.take()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-s.done:
				return
			}
		}
		select {
		case out <- topic:
		case <-s.done:
			return
		}
	}
}

func (s *subscription) take() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return "", false
	}
	topic := s.pending[0]
	s.pending = s.pending[1:]
	return topic, true
}

func (s *subscription) put(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if p == topic {
			return
		}
	}
	s.pending = append(s.pending, topic)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (h *hub) notify(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[topic] = struct{}{}
	for s := range h.subs {
		s.put(topic)
	}
}

// all notifies every topic that was ever seen, when some may have been missed.
func (h *hub) all() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		for topic := range h.seen {
			s.put(topic)
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	for s := range h.subs {
		s.end.Do(func() { close(s.done) })
	}
	clear(h.subs)
	h.mu.Unlock()
	h.wg.Wait()
}
