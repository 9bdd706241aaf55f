//! The CPU's counters, as the agent opened them: one of each on each CPU.

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
/// Where this CPU has one; see [`extra`].
#[map]
static EXTRA: PerfEventArray<u64> = PerfEventArray::new(0);

/// What they showed at a moment, on one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) cycles: bpf_perf_event_value,
    pub(crate) instructions: bpf_perf_event_value,
    pub(crate) extra: bpf_perf_event_value,
}

/// Reads them; false where this CPU has none, as one that came later.
#[inline(always)]
pub(crate) fn read(shown: &mut Shown) -> bool {
    if !read_one(&CYCLES, &mut shown.cycles) {
        return false;
    }
    if !read_one(&INSTRUCTIONS, &mut shown.instructions) {
        return false;
    }
    if constant(&COUNTERS[2]) != extra::NONE {
        return read_one(&EXTRA, &mut shown.extra);
    }
    true
}

#[inline(always)]
fn read_one(map: &PerfEventArray<u64>, value: &mut bpf_perf_event_value) -> bool {
    // SAFETY: a map's type is its definition and nothing else, and the helper takes its address; `value` is of the size
    // that is given.
    unsafe {
        bpf_perf_event_read_value(
            ptr::from_ref(map).cast_mut().cast(),
            u64::from(BPF_F_CURRENT_CPU as u32),
            value,
            size_of::<bpf_perf_event_value>() as u32,
        ) == 0
    }
}
