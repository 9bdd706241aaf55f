package main

import (
	"context"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
)

// lines appends each request to a file, as a line of OTLP JSON. Without a queue: what it cannot write, the sender hears.
type lines struct {
	Path string `mapstructure:"path"`

	mutex sync.Mutex
}

func linesFactory() exporter.Factory {
	create := func(ctx context.Context, settings exporter.Settings, config component.Config) (exporter.Logs, error) {
		return exporterhelper.NewLogs(ctx, settings, config, config.(*lines).write)
	}
	empty := func() component.Config { return &lines{} }
	return exporter.NewFactory(
		component.MustNewType("lines"), empty, exporter.WithLogs(create, component.StabilityLevelDevelopment))
}

func (l *lines) write(_ context.Context, logs plog.Logs) error {
	line, err := (&plog.JSONMarshaler{}).MarshalLogs(logs)
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	file, err := os.OpenFile(l.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
