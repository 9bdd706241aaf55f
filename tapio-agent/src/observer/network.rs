//! The network observer.

pub mod settings;

use crate::observer::{Anomaly, Hook, Malformed, Observer};

/// Judges the network.
#[derive(Debug)]
pub struct Network;

impl Observer for Network {
    const NAME: &'static str = "network";
    const HOOKS: &'static [Hook] = &[];
    const FIELDS: &'static [&'static str] = &[];
    type Settings = settings::Settings;

    fn new(_: &Self::Settings) -> Self {
        Self
    }

    fn kernel_settings(settings: &Self::Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn observe(&mut self, _: &[u8], _: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        Ok(())
    }

    fn tick(&mut self, _: u64, _: &mut Vec<Anomaly>) {}
}
