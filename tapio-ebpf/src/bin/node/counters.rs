//! Performance counters: the agent opens one of each on each CPU.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, bpf_perf_event_value},
    helpers::generated::bpf_perf_event_read_value,
    macros::map,
    maps::PerfEventArray,
};
use tapio_common::node::cycles::extra;

use crate::{COUNTERS, constant};

#[map]
static CYCLES: PerfEventArray<u64> = PerfEventArray::new(0);
#[map]
static INSTRUCTIONS: PerfEventArray<u64> = PerfEventArray::new(0);
/// The third counter, if this CPU has one; see [`extra`].
#[map]
static EXTRA: PerfEventArray<u64> = PerfEventArray::new(0);

/// Values of the counters at one moment, on one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CounterValues {
    pub(crate) cycles: bpf_perf_event_value,
    pub(crate) instructions: bpf_perf_event_value,
    pub(crate) extra: bpf_perf_event_value,
}

/// Reads the counters. Returns false if this CPU has none, as one that came online after the agent started.
#[inline(always)]
pub(crate) fn read(values: &mut CounterValues) -> bool {
    if !read_one(&CYCLES, &mut values.cycles) {
        return false;
    }
    if !read_one(&INSTRUCTIONS, &mut values.instructions) {
        return false;
    }
    if constant(&COUNTERS[2]) != extra::NONE {
        return read_one(&EXTRA, &mut values.extra);
    }
    true
}

#[inline(always)]
fn read_one(map: &PerfEventArray<u64>, value: &mut bpf_perf_event_value) -> bool {
    // SAFETY: the map is only its definition, whose address the helper takes; `value` has the given size.
    unsafe {
        bpf_perf_event_read_value(
            ptr::from_ref(map).cast_mut().cast(),
            u64::from(BPF_F_CURRENT_CPU as u32),
            value,
            size_of::<bpf_perf_event_value>() as u32,
        ) == 0
    }
}
