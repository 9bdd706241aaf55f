//! x
use serde::Deserialize;
use tapio_common::{baseline::Limits, network};

/// Thresholds.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Settings {}

impl Settings {
    /// Kernel form.
    pub fn kernel(&self) -> network::Settings {
        network::Settings {
            rtt: Limits { floor: 2_000, ceiling: 500_000, ..Limits::DEFAULT },
            connect: Limits { floor: 10_000, ..Limits::DEFAULT },
            retransmit: Limits { floor: 51, ..Limits::DEFAULT },
            retransmit_window_ns: 1_000_000_000,
            retransmit_min_segments: 10,
            retransmit_min_share: 51,
            cooldown_ns: 1_000_000_000,
        }
    }
}
