package main

import (
	"context"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// lines appends each request to a file, as a line of OTLP JSON, whichever its signal is. Without a queue: what it cannot write, the sender hears.
type lines struct {
	Path string `mapstructure:"path"`

	mutex sync.Mutex
}

func linesFactory() exporter.Factory {
	logs := func(ctx context.Context, settings exporter.Settings, config component.Config) (exporter.Logs, error) {
		return exporterhelper.NewLogs(ctx, settings, config, func(_ context.Context, logs plog.Logs) error {
			line, err := (&plog.JSONMarshaler{}).MarshalLogs(logs)
			return config.(*lines).write(line, err)
		})
	}
	metrics := func(ctx context.Context, settings exporter.Settings, config component.Config) (exporter.Metrics, error) {
		return exporterhelper.NewMetrics(ctx, settings, config, func(_ context.Context, metrics pmetric.Metrics) error {
			line, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics)
			return config.(*lines).write(line, err)
		})
	}
	traces := func(ctx context.Context, settings exporter.Settings, config component.Config) (exporter.Traces, error) {
		return exporterhelper.NewTraces(ctx, settings, config, func(_ context.Context, traces ptrace.Traces) error {
			line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
			return config.(*lines).write(line, err)
		})
	}
	empty := func() component.Config { return &lines{} }
	level := component.StabilityLevelDevelopment
	return exporter.NewFactory(component.MustNewType("lines"), empty,
		exporter.WithLogs(logs, level), exporter.WithMetrics(metrics, level), exporter.WithTraces(traces, level))
}

func (l *lines) write(line []byte, err error) error {
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
