//! Memory: how close usage is to its limit, and whether it grows towards it.

use serde::{Deserialize, Serialize};
use tapio_common::node::{Sample, UNKNOWN, UNLIMITED, kind};
use tapio_occurrence::{Data, Value};

use super::{
    MEMORY_PRESSURE, OOM_PREDICTED, anomaly, put,
    settings::Limits,
    trend::{self, Forecast, Trend},
};
use crate::observer::Anomaly;

/// Hysteresis: usage has to fall this far below the threshold before it is reported again: 5 % of the limit,
/// in 1/1024.
const HYSTERESIS: u64 = 51;

/// The state of one cgroup.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    is_near: bool,
    #[serde(serialize_with = "trend::keep")]
    trend: Trend,
    /// The last forecast reported, and the time of the last sample that agreed with it.
    reported: Option<(Forecast, u64)>,
}

/// A forecast holds for this long after the last sample that agreed with it.
const STANDS_NS: u64 = 120 * 1_000_000_000;

impl Memory {
    /// Whether growth was reported and has not ended.
    pub(super) const fn is_predicted(&self) -> bool {
        self.reported.is_some()
    }

    /// Forgets what was reported, so that it is reported again.
    pub(super) fn forget_reported(&mut self) {
        (self.is_near, self.reported) = (false, None);
    }

    /// Judges a sample: at most one anomaly.
    pub(super) fn judge(&mut self, sample: &Sample, limits: &Limits) -> Option<Anomaly> {
        let limit = sample.limit_bytes;
        if matches!(limit, 0 | UNKNOWN | UNLIMITED) || sample.held_bytes == UNKNOWN {
            *self = Self::default();
            return None;
        }
        let predicted = self.predict(sample, limits);
        let threshold = if sample.kind == kind::NODE { limits.node_share } else { limits.share };
        let share = (u128::from(sample.held_bytes) * 1024 / u128::from(limit)).min(1024) as u64;
        let was_near = self.is_near;
        self.is_near = share > if was_near { threshold.saturating_sub(HYSTERESIS) } else { threshold };
        if self.is_predicted() {
            return predicted;
        }
        if !self.is_near || was_near {
            return None;
        }
        let mut reported = anomaly(sample, &MEMORY_PRESSURE);
        put(&mut reported.data, "held_bytes", sample.held_bytes);
        put_limit(&mut reported.data, sample);
        put(&mut reported.data, "usage_bytes", sample.usage_bytes);
        reported.magnitude = sample.held_bytes;
        Some(reported)
    }

    /// The anomaly of its growth: reported when it is detected, and again whenever half of the remaining time
    /// has passed.
    fn predict(&mut self, sample: &Sample, limits: &Limits) -> Option<Anomaly> {
        // With swap left, the cgroup survives reaching its limit. Without knowing that, nothing is reported.
        let (swap, room) = (sample.swap_bytes, sample.swap_limit_bytes);
        if swap == UNKNOWN || matches!(room, UNKNOWN | UNLIMITED) {
            return None;
        }
        let held = sample.held_bytes.saturating_add(swap);
        let limit = sample.limit_bytes.saturating_add(room);
        let now_ns = sample.header.time_ns;
        let fell = self.trend.add(now_ns, held, limit);
        let forecast = self.trend.forecast(limit).filter(|forecast| {
            forecast.left_s <= limits.horizon_s && forecast.confidence >= limits.confidence
        });
        let Some(forecast) = forecast else {
            self.reported =
                self.reported.filter(|(_, agreed_ns)| !fell && now_ns.saturating_sub(*agreed_ns) < STANDS_NS);
            return None;
        };
        if let Some((last, agreed_ns)) = &mut self.reported
            && forecast.left_s > last.left_s / 2
        {
            *agreed_ns = now_ns;
            return None;
        }
        self.reported = Some((forecast, now_ns));

        let mut reported = anomaly(sample, &OOM_PREDICTED);
        put(&mut reported.data, "held_bytes", held);
        put(&mut reported.data, "limit_bytes", limit);
        put(&mut reported.data, "growth_bytes_per_minute", forecast.per_minute);
        put(&mut reported.data, "left_seconds", forecast.left_s);
        put(&mut reported.data, "window_seconds", forecast.window_s);
        reported.data.push("confidence", Value::Real((forecast.confidence * 100.0).round() / 100.0));
        // The less time is left, the worse.
        reported.magnitude = u64::MAX - forecast.left_s;
        Some(reported)
    }
}

/// Adds the limit, if there is one.
pub(super) fn put_limit(data: &mut Data, sample: &Sample) {
    if sample.limit_bytes != UNLIMITED {
        put(data, "limit_bytes", sample.limit_bytes);
    }
}
