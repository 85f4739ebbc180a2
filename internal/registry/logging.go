package registry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// Distribution logs through the one global logrus logger, whatever registry of
// the process it is. The newest registry's log gets all of it.
var (
	quiet  sync.Once
	target atomic.Pointer[slog.Logger]
)

func routeLogrus(log *slog.Logger) {
	target.Store(log)
	quiet.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.AddHook(toSlog{})
	})
}

type toSlog struct{}

// Levels has nothing below info: those lines are written for each request.
func (toSlog) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

// Fire logs everything as debug: distribution calls a client's mistake an error.
func (toSlog) Fire(e *logrus.Entry) error {
	log := target.Load()
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return nil
	}
	attrs := []slog.Attr{slog.String("level", e.Level.String())}
	for _, key := range []string{"err.code", "err.detail", "error", "vars.name", "vars.digest", "vars.uuid"} {
		if v, ok := e.Data[key]; ok {
			attrs = append(attrs, slog.Any(key, v))
		}
	}
	log.LogAttrs(context.Background(), slog.LevelDebug, "distribution: "+e.Message, attrs...)
	return nil
}
