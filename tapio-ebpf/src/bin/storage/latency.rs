//! Latency: the time from a request's making to its end.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::map, maps::LruHashMap};
use tapio_common::{
    baseline::{Baseline, TICK_SHIFT, Verdict},
    storage::{self, LARGE_BYTES, Latency, Series, kind, operation},
};
use tapio_ebpf::{Run, now_ns, since};

use crate::{SETTINGS, constant, request::Request};

/// Maximum number of series with a baseline.
const MAX_SERIES: u32 = 1_024;
/// The shortest time of so many requests is a reading: a device that answers some from its cache, or pauses now and then,
/// is as fast as its fastest.
const REQUESTS_PER_READING: u32 = 4;
/// include/linux/blk_types.h: somebody waits for this write. What has no such flag is written back when there is time.
const REQ_SYNC: u32 = 1 << 11;

/// Latencies by series.
#[map]
static LATENCIES: LruHashMap<Series, Latency> = LruHashMap::with_max_entries(MAX_SERIES, 0);

/// Judges a request that is done without an error.
#[inline(always)]
pub(crate) fn judge(request: Request, operation: u32, done: u32, run: Run) -> i32 {
    let started_ns: u64 = request.load(storage::START);
    let bytes: u32 = request.load(storage::BYTES);
    let is_awaited = operation != operation::WRITE || request.load::<u32>(storage::FLAGS) & REQ_SYNC != 0;
    // SAFETY: the helper takes no arguments and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let device = request.device();
    request.count(device, done, now);
    // A part is not the whole, and a device without statistics has no times.
    if started_ns == 0 || done != bytes || !is_awaited {
        run.normal();
        return 0;
    }
    let given_ns: u64 = request.load(storage::IO_START);
    let time = Time {
        started_ns,
        now,
        total_us: micros(since(now, started_ns)),
        waited_us: if given_ns > started_ns { micros(given_ns - started_ns) } else { 0 },
    };
    let series = Series { device, operation, is_large: u32::from(bytes > LARGE_BYTES) };
    if u64::from(time.total_us) > constant(&SETTINGS.slow_us) {
        slow(request, operation, bytes, &time, run);
        return 0;
    }
    learn(request, &series, &time, run);
    0
}

/// Reports a request that took too long. In a function of its own, for its place on the stack.
#[inline(never)]
fn slow(request: Request, operation: u32, bytes: u32, time: &Time, run: Run) {
    request.emit(run, kind::IO_SLOW, operation, |event| {
        event.value_us = time.total_us.into();
        event.waited_us = time.waited_us.into();
        event.bytes = bytes.into();
    });
}

/// The time of a request.
struct Time {
    started_ns: u64,
    now: u64,
    total_us: u32,
    waited_us: u32,
}

#[inline(always)]
fn micros(ns: u64) -> u32 {
    let us = ns / 1_000;
    if us > u32::MAX as u64 { u32::MAX } else { us as u32 }
}

/// Adds a latency to the baseline of its series, and reports a rise of its level.
#[inline(never)]
fn learn(request: Request, series: &Series, time: &Time, run: Run) {
    let Some(latency) = LATENCIES.get_ptr_mut(series) else {
        let first = Latency {
            lowest_us: time.total_us,
            waited_us: time.waited_us,
            requests: 1,
            padding: 0,
            read_ns: 0,
            baseline: Baseline::default(),
        };
        let _ = LATENCIES.insert(series, &first, 0);
        run.new_key();
        return run.learning();
    };
    // SAFETY: a map value; CPUs that race here can lose a sample.
    let latency = unsafe { &mut *latency };
    // Requests that wait at the same time wait for the same thing: they are one reading.
    if time.started_ns < latency.read_ns {
        return run.normal();
    }
    if latency.requests == 0 || time.total_us < latency.lowest_us {
        latency.lowest_us = time.total_us;
        latency.waited_us = time.waited_us;
    }
    latency.requests += 1;
    if latency.requests < REQUESTS_PER_READING {
        return run.normal();
    }
    latency.requests = 0;
    latency.read_ns = time.now;
    let limits = constant(&SETTINGS.latency);
    let value = u64::from(latency.lowest_us);
    if latency.baseline.learn_if_normal(value, &limits) {
        return run.normal();
    }
    let waited_us = u64::from(latency.waited_us);
    let before = latency.baseline;
    let verdict = latency.baseline.judge(value, time.now >> TICK_SHIFT, &limits);
    let level_us = latency.baseline.mean();
    match verdict {
        Verdict::Learning => run.learning(),
        Verdict::Shift if level_us > before.mean() => {
            let began = latency.baseline.since(time.now >> TICK_SHIFT) << TICK_SHIFT;
            let since_ns = now_ns().wrapping_sub(time.now.wrapping_sub(began));
            request.emit(run, kind::LATENCY_SHIFT, series.operation, |event| {
                event.value_us = level_us;
                event.waited_us = waited_us;
                event.since_ns = since_ns;
                event.baseline = before;
            });
        }
        _ => run.normal(),
    }
}
