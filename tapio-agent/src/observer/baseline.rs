//! A baseline as it is kept for an agent that comes later (serde's `with`): four words, without what is of the moment.

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
use tapio_common::baseline::Baseline;

pub(crate) fn serialize<S: Serializer>(baseline: &Baseline, to: S) -> Result<S::Ok, S::Error> {
    bytemuck::cast::<Baseline, [u64; 4]>(baseline.without_run()).serialize(to)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Baseline, D::Error> {
    <[u64; 4]>::deserialize(from).map(bytemuck::cast)
}
