package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/run"
)

// startToReady starts the server on empty folders.
func startToReady(s *suite) error {
	var took sample
	for range s.times(20, 3) {
		p, err := s.plane()
		if err != nil {
			return err
		}
		d, err := p.up()
		p.down()
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	s.report.budget("start to ready, empty data folder", "< 250 ms", took.String(), took.at(0.99) < 250*time.Millisecond)
	return nil
}

// idle watches a server that has nothing to do, with its agent.
func idle(s *suite) error {
	p, err := s.plane()
	if err != nil {
		return err
	}
	defer p.down()
	if _, err := p.up(); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the start is not idle
	pids := map[string]int{"server": p.cmd.Process.Pid}
	var agent struct{ PID int }
	if b, err := os.ReadFile(filepath.Join(p.dir, "agent.json")); err == nil && json.Unmarshal(b, &agent) == nil {
		pids["agent"] = agent.PID
	}
	window := time.Duration(s.times(10, 3)) * time.Second
	before := map[string]time.Duration{}
	for name, pid := range pids {
		before[name] = cpuOf(pid)
	}
	time.Sleep(window)
	for _, name := range []string{"server", "agent"} {
		pid := pids[name]
		if pid == 0 {
			return fmt.Errorf("couldn't find the %s's process", name)
		}
		share := 100 * float64(cpuOf(pid)-before[name]) / float64(window)
		kb, ok := field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		if !ok {
			return fmt.Errorf("couldn't read the memory of the %s", name)
		}
		s.report.budget("idle CPU, "+name, "≈ 0", fmt.Sprintf("%.1f %% of a core over %s", share, window), share < 1)
		s.report.budget("resident memory, "+name, "< 150 MB", fmt.Sprintf("%.0f MB", float64(kb)*1024/1e6), float64(kb)*1024 < 150e6)
	}
	return nil
}

// cpuOf is the processor time that a process used: proc(5), in ticks of 10 ms.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	var ticks int64
	for _, x := range f[11:13] {
		n, _ := strconv.ParseInt(x, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// recovery kills the server in the middle of a bake, starts it again, and waits
// for the rollout to move, while requests go through the proxy.
func recovery(s *suite) error {
	p, err := s.plane()
	if err != nil {
		return err
	}
	defer p.down()
	if _, err := p.up(); err != nil {
		return err
	}
	r, err := s.repository()
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if err := r.commit("steady", addr, "200", "10m"); err != nil {
		return err
	}
	id, err := p.start(r.dir, "steady/sluice.yaml")
	if err != nil {
		return err
	}
	if _, err := p.released(id); err != nil {
		return err
	}
	if err := r.commit("steady", addr, "204", "10m"); err != nil {
		return err
	}
	if id, err = p.start(r.dir, "steady/sluice.yaml"); err != nil {
		return err
	}
	l := startLoad([]string{addr}, 200)
	defer l.stop()
	elapsed := func(st control.Status) float64 {
		if b := st.Environments[0].Bake; b != nil {
			return b.ElapsedSeconds
		}
		return 0
	}
	if _, err := p.wait(id, func(st control.Status) bool { return elapsed(st) > 1 }); err != nil {
		return err
	}
	var moved, ready sample
	for range s.times(10, 2) {
		var before control.Status
		if err := p.call("GET", "runs/"+id, nil, &before); err != nil {
			return err
		}
		began := time.Now()
		p.kill()
		d, err := p.up()
		if err != nil {
			return err
		}
		ready = append(ready, d)
		for {
			var now control.Status
			if err := p.call("GET", "runs/"+id, nil, &now); err != nil {
				return err
			}
			if elapsed(now) > elapsed(before) {
				break
			}
			if time.Since(began) > time.Minute {
				return fmt.Errorf("the rollout did not move within a minute of the kill")
			}
			time.Sleep(5 * time.Millisecond)
		}
		moved = append(moved, time.Since(began))
		time.Sleep(500 * time.Millisecond)
	}
	l.stop()
	s.report.budget("kill -9 of the control plane → rollouts move again", "< 6 s", moved.String(), moved.at(1) < 6*time.Second)
	s.report.budget("requests dropped meanwhile", "0", fmt.Sprintf("%d of %d", l.dropped.Load()+l.bad.Load(), l.sent.Load()), l.dropped.Load()+l.bad.Load() == 0)
	s.report.other("start to ready, on a folder with a live rollout", ready.String())
	return nil
}

// rollbacks ships a bad release again and again, of several services at once,
// and reads how long each took from the verdict to weight 0. The evidence that
// this leaves behind is then verified offline.
func rollbacks(s *suite) error {
	p, err := s.plane()
	if err != nil {
		return err
	}
	defer p.down()
	if _, err := p.up(); err != nil {
		return err
	}
	r, err := s.repository()
	if err != nil {
		return err
	}
	const services = 4
	each := s.times(50, 2)
	names, addrs := make([]string, services), make([]string, services)
	for i := range services {
		names[i] = fmt.Sprintf("service-%d", i)
		if addrs[i], err = freeAddr(); err != nil {
			return err
		}
		if err := r.commit(names[i], addrs[i], "200", "5s"); err != nil {
			return err
		}
		id, err := p.start(r.dir, names[i]+"/sluice.yaml")
		if err != nil {
			return err
		}
		if _, err := p.released(id); err != nil {
			return err
		}
	}
	l := startLoad(addrs, 100)
	defer l.stop()
	var mu sync.Mutex
	var back sample
	var detect []float64
	errs := make([]error, services)
	var wg sync.WaitGroup
	for i := range services {
		if err := r.commit(names[i], addrs[i], "500", "5s"); err != nil {
			return err
		}
		wg.Go(func() {
			var st control.Status
			for n := range each {
				var id string
				var err error
				if n == 0 {
					id, err = p.start(r.dir, names[i]+"/sluice.yaml")
				} else {
					id, err = p.again(string(st.Release))
				}
				if err == nil {
					st, err = p.wait(id, func(st control.Status) bool { return ended(st.State) })
				}
				if err == nil && (st.State != run.RolledBack || st.Environments[0].RollbackMillis == nil || st.Environments[0].DetectSeconds == nil) {
					err = fmt.Errorf("run %s of a bad release is %s: %s", id, st.State, st.Reason)
				}
				if err != nil {
					errs[i] = err
					return
				}
				mu.Lock()
				back = append(back, time.Duration(*st.Environments[0].RollbackMillis)*time.Millisecond)
				detect = append(detect, *st.Environments[0].DetectSeconds)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	l.stop()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	s.report.budget("verdict `fail` committed → weight read back as 0", "p99 < 100 ms", back.String(), back.at(0.99) < 100*time.Millisecond)
	quarter := max(1, len(back)/4)
	s.report.other("the same, first and last quarter of these rollbacks: as the log grows", fmt.Sprintf("p50 %s and %s", ms(back[:quarter].at(0.5)), ms(back[len(back)-quarter:].at(0.5))))
	s.report.other("first exposure → verdict `fail` (all answers bad, 1 s bins)", fmt.Sprintf("median %.1f s", median(detect)))
	s.report.other("requests dropped during all of these rollbacks", fmt.Sprintf("%d of %d", l.dropped.Load(), l.sent.Load()))
	return s.verify(p)
}

// again promotes a release that was rolled back, once it is let in again.
func (p *plane) again(release string) (string, error) {
	if err := p.call("POST", "quarantines/"+release+"/lift", map[string]string{"reason": "a benchmark wants it back"}, nil); err != nil {
		return "", err
	}
	var started struct{ Run string }
	err := p.call("POST", "promotions", map[string]string{"release": release, "environment": "production"}, &started)
	return started.Run, err
}

// verify verifies the evidence of p as one who only has the file.
func (s *suite) verify(p *plane) error {
	var bundle []byte
	if err := p.call("GET", "evidence/bundle", nil, &bundle); err != nil {
		return err
	}
	var rates []float64
	statements := 0
	for range s.times(9, 3) {
		began := time.Now()
		rep, err := evidence.Verify(bytes.NewReader(bundle), evidence.VerifyOptions{})
		if err != nil || !rep.OK {
			return fmt.Errorf("the evidence does not verify: %+v, %v", rep, err)
		}
		statements = rep.Statements
		rates = append(rates, float64(statements)/time.Since(began).Seconds())
	}
	rate := median(rates)
	s.report.budget("offline verification of a bundle", "≥ 5 000 statements/s", fmt.Sprintf("%.0f statements/s (%d statements, %.1f MB)", rate, statements, float64(len(bundle))/1e6), rate >= 5000)
	file := filepath.Join(s.dir, "bundle")
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		return fmt.Errorf("couldn't write the bundle: %w", err)
	}
	began := time.Now()
	if out, err := exec.CommandContext(s.ctx, s.sluice, "evidence", "verify", file).CombinedOutput(); err != nil {
		return fmt.Errorf("`sluice evidence verify` failed: %w: %s", err, out)
	}
	s.report.other(fmt.Sprintf("`sluice evidence verify` of these %d statements, the whole command", statements), ms(time.Since(began)))
	return nil
}
