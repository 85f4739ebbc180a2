package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

const (
	// ScrapeInterval is how often agents scrape.
	ScrapeInterval = time.Second
	lookback       = ScrapeInterval * 5 / 2

	maxSeries  = 10_000 // of one scrape
	maxSamples = 1_000_000
	maxQuery   = 8192
	maxLabel   = 1024 // bytes of a label's value
	retention  = 15 * 24 * time.Hour
	queryTime  = 5 * time.Second
)

// Sample is the newest value of one series.
type Sample struct {
	Series string // labels as one text
	Value  float64
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	tsdb   *tsdb.DB
	engine *promql.Engine
	start  time.Time // with its monotonic part: the clock of samples
	since  func(time.Time) time.Duration
	newest atomic.Int64

	mu        sync.Mutex
	instances map[string]map[string]*instance // by key and name
}

// Open opens the database in a folder.
func Open(dir string, log *slog.Logger) (*DB, error) {
	o := tsdb.DefaultOptions()
	o.RetentionDuration = retention.Milliseconds()
	o.OutOfOrderTimeWindow = (2 * time.Hour).Milliseconds() // the wall clock may have gone back since the last start
	o.NoLockfile = true                                     // the data folder is locked as a whole
	o.WALSegmentSize = 8 << 20
	db, err := tsdb.Open(dir, slog.New(quiet{log.Handler()}), nil, o, nil)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the metrics in %s: %w", dir, err)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: maxSamples, Timeout: queryTime, LookbackDelta: lookback, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parser.NewParser(parser.Options{})})
	return &DB{tsdb: db, engine: engine, start: time.Now(), since: time.Since, instances: map[string]map[string]*instance{}}, nil
}

// quiet lets only warnings of the database through.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

// Close closes the database.
func (d *DB) Close() error {
	if err := errors.Join(d.engine.Close(), d.tsdb.Close()); err != nil {
		return fmt.Errorf("couldn't close the metrics: %w", err)
	}
	return nil
}

// now is the clock of samples: the wall clock of the start, and what has passed
// since then.
func (d *DB) now() int64 { return d.start.Add(d.since(d.start)).UnixMilli() }

// Append takes scrapes. One that is broken is left out whole, and named in the
// error; the others are visible when Append returns.
func (d *DB) Append(ctx context.Context, scrapes []wire.Scrape) error {
	now := d.now()
	var errs []error
	for _, s := range scrapes {
		if s.Error != "" {
			d.note(s, now, s.Error)
			continue // the instance did not answer: that is its own business, and no error of ours
		}
		if err := d.append(ctx, s, now); err != nil {
			d.note(s, now, err.Error())
			errs = append(errs, fmt.Errorf("couldn't take the metrics of %s, instance %s: %w", s.Key, s.Instance, err))
			continue
		}
		d.note(s, now, "")
		d.newest.Store(max(d.newest.Load(), now))
	}
	return errors.Join(errs...)
}

func (d *DB) append(ctx context.Context, s wire.Scrape, now int64) (err error) {
	p, err := textparse.New(s.Body, s.Type, nil, textparse.ParserOptions{FallbackContentType: "text/plain"})
	if p == nil {
		return fmt.Errorf("its answer is not in Prometheus' exposition format: %w", err)
	}
	app := d.tsdb.Appender(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, app.Rollback())
		}
	}()
	var l labels.Labels
	for n := 0; ; {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("line after series %d: %w", n, err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		if n++; n > maxSeries {
			return fmt.Errorf("it has more than %d series", maxSeries)
		}
		_, _, v := p.Series()
		p.Labels(&l)
		full, err := own(l, s)
		if err != nil {
			return err
		}
		// The instance's own timestamps are left out: see the package.
		if _, err := app.Append(0, full, now, v); err != nil && !errors.Is(err, storage.ErrDuplicateSampleForTimestamp) {
			return err
		}
	}
	return app.Commit()
}

// own adds our labels.
func own(l labels.Labels, s wire.Scrape) (labels.Labels, error) {
	b := labels.NewBuilder(l)
	for name, value := range map[string]string{
		"project": s.Project, "service": s.Service, "environment": s.Environment, "revision": s.Release.Short(), "instance": s.Instance,
	} {
		if theirs := l.Get(name); theirs != "" {
			b.Set("exported_"+name, theirs)
		}
		b.Set(name, value)
	}
	out := b.Labels()
	var bad error
	out.Range(func(x labels.Label) {
		if len(x.Value) > maxLabel {
			bad = fmt.Errorf("label %.60s has a value of more than %d bytes", x.Name, maxLabel)
		}
	})
	return out, bad
}

// Query evaluates a PromQL expression at the time of the newest sample, over the
// series of key only: see [Bind]. A scalar is one sample without labels. Values
// that are not numbers come as NaN. No series at all is [ErrNothing], with why.
func (d *DB) Query(ctx context.Context, key release.Key, query string) ([]Sample, error) {
	query, err := Bind(query, key)
	if err != nil {
		return nil, err
	}
	at := d.newest.Load()
	if age := time.Duration(d.now()-at) * time.Millisecond; at == 0 || age > lookback {
		return nil, fmt.Errorf("%w: %s", ErrNothing, d.why(key)) // nobody scrapes any more
	}
	q, err := d.engine.NewInstantQuery(ctx, d.tsdb, promql.NewPrometheusQueryOpts(false, lookback), query, time.UnixMilli(at))
	if err != nil {
		return nil, fmt.Errorf("couldn't read query %q: %w", query, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("couldn't evaluate query %q: %w", query, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		out := make([]Sample, 0, len(v))
		for _, s := range v {
			x := Sample{Series: s.Metric.String(), Value: s.F}
			if s.H != nil {
				x.Value = math.NaN()
			}
			out = append(out, x)
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%w: %s", ErrNothing, d.why(key))
		}
		return out, nil
	case promql.Scalar:
		return []Sample{{Value: v.V}}, nil
	}
	return nil, fmt.Errorf("query %q yields a %s; a metric needs numbers, one for each series", query, res.Value.Type())
}

func checkLength(query string) error {
	if len(query) > maxQuery {
		return fmt.Errorf("the query has %d bytes, at most %d are allowed", len(query), maxQuery)
	}
	return nil
}

// Check reports whether query is a PromQL expression that yields numbers. The
// variables $revision, $service and $environment stand for text.
func Check(query string) error {
	if err := checkLength(query); err != nil {
		return err
	}
	e, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return err
	}
	if t := e.Type(); t != parser.ValueTypeVector && t != parser.ValueTypeScalar {
		return fmt.Errorf("it yields a %s; a metric needs numbers, one for each series", t)
	}
	return nil
}
