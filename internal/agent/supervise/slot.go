package supervise

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/confine"
)

const (
	firstBackOff = 100 * time.Millisecond
	lastBackOff  = 10 * time.Second
	provenAfter  = 10 * time.Second // ready for so long: the back-off starts anew
	grace        = 10 * time.Second // from SIGTERM to SIGKILL
	firstProbe   = 20 * time.Millisecond
	slowestStart = 250 * time.Millisecond // between questions while starting
)

// slot is the place of one process. Its goroutine owns the process.
type slot struct {
	group *Group
	index int
	stop  chan struct{} // closed: drain and end
	gone  chan struct{} // closed: ended

	mu      sync.Mutex
	status  Instance
	secrets []string // values, for striking them out
	unknown bool     // they could not be read: nothing of the log is shown
	rec     record
	adopted *process
	written <-chan struct{} // closed: all that the process wrote is in the log
}

func (sl *slot) snapshot() Instance {
	sl.mu.Lock()
	i := sl.status
	sl.mu.Unlock()
	if !i.Ready {
		i.LogTail = sl.tail()
	}
	return i
}

// tail returns the last lines of the log, without the secrets that its process has.
func (sl *slot) tail() string {
	sl.mu.Lock()
	secrets, unknown := sl.secrets, sl.unknown
	sl.mu.Unlock()
	if unknown {
		return "(its log is not shown: it may hold secrets, which can't be read any more)"
	}
	return tail(sl.logPath(), secrets)
}

func (sl *slot) isReady() bool {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.status.Ready
}

func (sl *slot) dir(kind string) string {
	g := sl.group
	return filepath.Join(g.sup.opt.Dir, kind, safeName(g.key.String()), fmt.Sprintf("%s-%d", g.release.Short(), sl.index))
}

func (sl *slot) logPath() string { return sl.dir("logs") + ".log" }

// takeUp finds the process of an earlier agent. It is done before run, so that the
// first status already shows it: traffic must not wait for a question.
func (sl *slot) takeUp() {
	g := sl.group
	r, ok := g.sup.inherited(recordName(g.key, g.release, sl.index))
	if !ok {
		return
	}
	p, err := adopt(r.identity)
	if err != nil {
		g.sup.opt.Logger.Info("an instance ended while no agent ran", "instance", sl.status.ID, "error", err)
		return
	}
	values, err := g.sup.resolve(g.spec.Secrets)
	if err != nil {
		g.sup.opt.Logger.Warn("an instance goes on with secrets that it would not get anew", "instance", sl.status.ID, "error", err)
	}
	sl.keepSecrets(values)
	sl.unknown = err != nil
	sl.adopted, sl.rec = p, r
	sl.status.PID, sl.status.Port, sl.status.Serial = r.PID, r.Port, r.Serial
	sl.status.Ready, sl.status.Restarts = r.Ready, r.Restarts
}

func (sl *slot) keepSecrets(values map[string]string) {
	sl.secrets, sl.unknown = nil, false
	for _, v := range values {
		sl.secrets = append(sl.secrets, v)
	}
}

// run keeps a process running until stop is closed or the supervisor is.
func (sl *slot) run() {
	defer close(sl.gone)
	s := sl.group.sup
	wait := firstBackOff
	for {
		p := sl.adopted
		sl.adopted = nil
		var how string
		var proven bool
		var err error
		if p == nil {
			select {
			case <-sl.stop:
				return
			default:
			}
			p, err = sl.start()
		}
		if err != nil {
			how = "couldn't start: " + err.Error()
		} else {
			var over bool
			if how, proven, over = sl.watchOver(p); over {
				return
			}
		}
		if proven {
			wait = firstBackOff
		}
		sl.setReady(false) // who is gone gets no request while its last words are awaited
		sl.awaitLog()
		sl.ended(how)
		s.opt.Changed()
		t := time.NewTimer(wait)
		select {
		case <-sl.stop:
			t.Stop()
			return
		case <-s.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		wait = min(2*wait, lastBackOff)
	}
}

// start begins a new process and records it.
func (sl *slot) start() (*process, error) {
	spec, s := sl.group.current(), sl.group.sup
	values, err := s.resolve(spec.Secrets)
	if err != nil {
		sl.mu.Lock()
		sl.unknown = sl.secrets == nil // the log may be of a process before our time
		sl.mu.Unlock()
		return nil, err
	}
	tmp, err := sl.makeTemp()
	if err != nil {
		return nil, err
	}
	log, pump, err := startPump(sl.logPath())
	if err != nil {
		return nil, err
	}
	written := make(chan struct{})
	sl.written = written
	s.wait.Go(func() {
		defer close(written)
		pump.wait()
	})
	s.wait.Go(func() {
		select {
		case <-written:
		case <-s.ctx.Done():
			pump.forget()
		}
	})
	defer log.Close()

	s.mu.Lock()
	defer s.mu.Unlock()
	port, err := s.freePort()
	if err != nil {
		return nil, err
	}
	begun := false
	defer func() {
		if !begun {
			s.letGo(port)
		}
	}()
	cmd, done, err := s.command(spec, tmp, environment(spec, values, s.file.markLine(), sl.status.ID, tmp, port))
	if err != nil {
		return nil, err
	}
	defer done()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := spawn(cmd)
	if err != nil {
		return nil, err
	}
	begun = true
	sl.mu.Lock()
	sl.keepSecrets(values)
	sl.status.PID, sl.status.Port, sl.status.Ready = p.PID, port, false
	sl.status.Serial = serial()
	sl.rec = record{identity: p.identity, Key: spec.Key, Release: spec.Release, Slot: sl.index, Serial: sl.status.Serial, Port: port, Restarts: sl.status.Restarts}
	rec := sl.rec
	sl.mu.Unlock()
	s.file.Instances[rec.name()] = rec
	if err := s.save(); err != nil {
		s.opt.Logger.Error("couldn't record an instance", "instance", rec.name(), "error", err)
	}
	return p, nil
}

// command is how a process begins: confined, or as one of the agent's own.
func (s *Supervisor) command(spec Spec, tmp string, env []string) (cmd *exec.Cmd, done func(), err error) {
	if !s.opt.Confine {
		cmd = exec.Command("/bin/sh", "-c", spec.Run)
		cmd.Dir, cmd.Env = spec.Dir, env
		return cmd, func() {}, nil
	}
	return confine.Command(confine.View{
		Hide: s.opt.Hide, Show: s.opt.Show, Dir: spec.Dir, Writable: []string{tmp}, Key: spec.Key.String(), Users: s.users,
	}, spec.Run, env)
}

// makeTemp makes the instance's own folder, which is its user's.
func (sl *slot) makeTemp() (string, error) {
	tmp := sl.dir("tmp")
	uid, gid := os.Geteuid(), os.Getegid()
	if s := sl.group.sup; s.opt.Confine {
		var err error
		if uid, gid, err = s.users.Of(sl.group.key.String()); err != nil {
			return "", err
		}
	}
	if info, err := os.Stat(tmp); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != uid {
			_ = os.RemoveAll(tmp) // of an instance that had another user: it could not use it
		}
	}
	err := os.MkdirAll(tmp, 0o700)
	if err == nil && uid != os.Geteuid() {
		err = os.Chown(tmp, uid, gid)
	}
	if err != nil {
		return "", fmt.Errorf("couldn't make its folder for temporary files: %w", err)
	}
	return tmp, nil
}

func serial() string {
	var b [8]byte
	v := rand.Uint64()
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}

// awaitLog waits until the last words are in the log. A process that left the
// session may still hold the pipe, and a full disk its reader.
func (sl *slot) awaitLog() {
	if sl.written == nil {
		return
	}
	t := time.NewTimer(300 * time.Millisecond)
	defer t.Stop()
	select {
	case <-sl.written:
	case <-t.C:
	case <-sl.group.sup.ctx.Done():
	}
	sl.written = nil
}

// ended notes that the process is gone.
func (sl *slot) ended(how string) {
	sl.mu.Lock()
	sl.status.Ready, sl.status.PID = false, 0
	sl.status.Restarts++
	sl.status.LastExit = how
	id, rec := sl.status.ID, sl.rec
	sl.mu.Unlock()
	if rec.PID != 0 {
		sl.group.sup.note(rec, true)
	}
	sl.group.exited(time.Now(), id, how, sl.tail())
}

func (sl *slot) setReady(ready bool) {
	sl.mu.Lock()
	same := sl.status.Ready == ready
	sl.status.Ready, sl.rec.Ready = ready, ready
	rec := sl.rec
	sl.mu.Unlock()
	if same {
		return
	}
	sl.group.sup.note(rec, false)
	if ready {
		sl.group.becameReady()
	}
	sl.group.sup.opt.Changed()
}

// watchOver asks the process whether it is well until it ends. over says that the
// slot is done: it was stopped, or the supervisor closed. proven says that it was
// ready for long enough to call its end a new trouble.
func (sl *slot) watchOver(p *process) (how string, proven, over bool) {
	s := sl.group.sup
	ended := make(chan string, 1)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if how, ok := p.wait(); ok {
			ended <- how
		}
	})
	defer watcher.Wait()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()

	s.opt.Changed()
	var good, bad int
	var lastAnswer error
	since := time.Now() // of the present readiness or the lack of it
	every := firstProbe
	next := time.NewTimer(0)
	if spec := sl.group.current(); spec.silent() {
		next.Reset(spec.Health.Interval)
	}
	defer next.Stop()
	answers := make(chan error, 1)
	for {
		select {
		case how := <-ended:
			return "ended: " + how, sl.isReady() && time.Since(since) >= provenAfter, false
		case <-sl.stop:
			sl.finish(p, ended)
			return "", false, true
		case <-s.ctx.Done():
			p.forget()
			return "", false, true
		case <-next.C:
			spec := sl.group.current()
			port := sl.rec.Port
			if spec.silent() {
				answers <- nil // it runs: more can't be known
				continue
			}
			watcher.Go(func() { answers <- s.probe.ask(ctx, spec.Health, port) })
		case lastAnswer = <-answers:
			h := sl.group.current().Health
			ready := sl.isReady()
			if lastAnswer == nil {
				good, bad = good+1, 0
			} else {
				good, bad = 0, bad+1
			}
			switch {
			case !ready && good >= h.Healthy, ready && bad >= h.Failing:
				ready = !ready
				since = time.Now()
				sl.setReady(ready)
			case !ready && time.Since(since) >= h.StartIn:
				why := fmt.Sprintf("was not ready within %s: %v", h.StartIn, lastAnswer)
				sl.mu.Lock()
				id := sl.status.ID
				sl.mu.Unlock()
				sl.group.unwell(id, why, sl.tail())
				sl.terminate(p, ended)
				return why, false, false
			}
			if ready || sl.group.current().silent() {
				every = h.Interval
			} else if lastAnswer == nil {
				every = min(firstProbe, h.Interval)
			} else {
				every = min(2*every, slowestStart, max(h.Interval, firstProbe))
			}
			next.Reset(every)
		}
	}
}

// finish ends the process after its requests have ended.
func (sl *slot) finish(p *process, ended <-chan string) {
	s := sl.group.sup
	before := sl.snapshot()
	sl.setReady(false)
	ctx, cancel := context.WithTimeout(s.ctx, sl.group.current().Health.DrainIn)
	s.opt.Drain(ctx, before)
	cancel()
	if s.ctx.Err() != nil {
		p.forget() // the next agent sweeps it up
		return
	}
	sl.terminate(p, ended)
	sl.mu.Lock()
	sl.status.PID = 0
	rec := sl.rec
	sl.mu.Unlock()
	s.note(rec, true)
	_ = os.RemoveAll(sl.dir("tmp"))
	s.opt.Changed()
}

// terminate ends the process and waits until it has ended.
func (sl *slot) terminate(p *process, ended <-chan string) {
	sl.setReady(false)
	p.signal(syscall.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-ended:
		return
	case <-t.C:
	case <-sl.group.sup.ctx.Done():
	}
	killSession(p.PID)
	select {
	case <-ended:
	case <-time.After(grace): // in uninterruptible sleep: nothing ends it
		p.forget()
	}
}
