//! Attributes: name-value pairs with unique names.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use tapio_occurrence::{Data, Process, Value, Workload};

/// A list of attributes. The first value of a name stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn put(&mut self, key: impl Into<String>, value: AnyValue) {
        let key = key.into();
        if !self.has(&key) {
            self.0.push(KeyValue { key, value: Some(value), ..KeyValue::default() });
        }
    }

    pub(super) fn text(&mut self, key: impl Into<String>, value: Option<&str>) {
        if let Some(value) = value {
            self.put(key, text(value));
        }
    }

    pub(super) fn number(&mut self, key: impl Into<String>, value: Option<u64>) {
        if let Some(value) = value {
            self.put(key, number(value));
        }
    }

    pub(super) fn value(&mut self, key: impl Into<String>, value: &Value) {
        self.put(key, of(value));
    }

    /// Adds the members of `data` below `path`. The members of a list become one array per key.
    pub(super) fn data(&mut self, path: &str, data: &Data) {
        for (key, value) in &data.0 {
            let path = format!("{path}.{key}");
            match value {
                Value::Workload(other) => self.workload(&path, other),
                Value::List(several) => self.columns(&path, several),
                value => self.value(path, value),
            }
        }
    }

    pub(super) fn process(&mut self, path: &str, process: &Process) {
        self.number(format!("{path}.pid"), Some(process.pid.into()));
        self.text(format!("{path}.comm"), Some(&process.comm));
    }

    pub(super) fn workload(&mut self, path: &str, workload: &Workload) {
        for (key, value) in [
            ("namespace", workload.namespace.as_deref()),
            ("pod", workload.pod.as_deref()),
            ("pod_uid", workload.pod_uid.as_deref()),
            ("container", workload.container.as_deref()),
            ("container_id", workload.container_id.as_deref()),
            ("runtime", workload.runtime.as_deref()),
            ("image", workload.image.as_deref()),
            ("owner_kind", workload.owner_kind.as_deref()),
            ("owner", workload.owner.as_deref()),
            ("unit", workload.unit.as_deref()),
        ] {
            self.text(format!("{path}.{key}"), value);
        }
    }

    /// Adds one array per key of a list. A missing member becomes an empty value, so that indices agree.
    fn columns(&mut self, path: &str, several: &[Data]) {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in several.iter().flat_map(|data| &data.0) {
            if !keys.contains(&&**key) {
                keys.push(key);
            }
        }
        for key in keys {
            let values = several.iter().map(|data| data.get(key).map(of).unwrap_or_default()).collect();
            self.put(format!("{path}.{key}"), any(any_value::Value::ArrayValue(ArrayValue { values })));
        }
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|have| have.key == key)
    }
}

pub(super) fn text(value: &str) -> AnyValue {
    any(any_value::Value::StringValue(value.to_owned()))
}

pub(super) fn number(value: u64) -> AnyValue {
    // OTLP has only signed integers. None of Tapio's numbers comes near the limit.
    any(any_value::Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(super) fn real(value: f64) -> AnyValue {
    any(any_value::Value::DoubleValue(value))
}

fn of(value: &Value) -> AnyValue {
    match value {
        Value::Number(value) => number(*value),
        Value::Signed(value) => any(any_value::Value::IntValue(*value)),
        Value::Real(value) => real(*value),
        Value::Text(value) => text(value),
        // These values do not occur in a list.
        Value::List(_) | Value::Workload(_) => AnyValue::default(),
    }
}

fn any(value: any_value::Value) -> AnyValue {
    AnyValue { value: Some(value) }
}
