//! Occurrences as JSON.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
    ser::SerializeMap,
};

use crate::{Data, Occurrence, PeerNames, Value, printable};

impl Occurrence {
    /// Appends the occurrence to `out` as one JSON object without line breaks, safe for a terminal.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Writing texts and numbers to memory does not fail.
        let _ = serde_json::to_writer(&mut *out, self);
        // Nearly all text is ASCII, in which the serializer has already escaped everything but DEL.
        let is_left = |byte: &u8| *byte >= 0x7f;
        if out[start..].iter().any(is_left)
            && let Ok(text) = str::from_utf8(&out[start..])
            && let Cow::Owned(escaped) = printable::json(text)
        {
            out.truncate(start);
            out.extend_from_slice(escaped.as_bytes());
        }
    }

    /// Parses an occurrence. Fields added by a newer version are ignored.
    ///
    /// # Errors
    /// The bytes are not the JSON of an occurrence; the error has the reason and the position.
    pub fn read_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
}

/// Times as `2026-11-20T02:18:18.123456789Z`, always with nine digits.
pub(crate) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(unix_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", crate::timestamp(*unix_ns)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        u64::try_from(time.as_nanosecond())
            .map_err(|_| D::Error::custom(format_args!("{text} is before 1970, or after 2554")))
    }
}

/// `None` if no name is known.
pub(crate) fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<PeerNames>>, D::Error> {
    let names = PeerNames::deserialize(from)?;
    Ok((names != PeerNames::default()).then(|| Arc::new(names)))
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Facts)
    }
}

struct Facts;

impl<'de> Visitor<'de> for Facts {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys with values")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Data, M::Error> {
        let mut facts = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            facts.push((key.into(), value));
        }
        Ok(Data(facts))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, a list of keys with values, or a workload")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    /// JSON null, which stands for a number that is not finite.
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Real(f64::NAN))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.to_owned().into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Value, S::Error> {
        let mut several = Vec::new();
        while let Some(data) = list.next_element()? {
            several.push(data);
        }
        Ok(Value::List(several))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Value, M::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map))
            .map(|workload| Value::Workload(Arc::new(workload)))
    }
}
